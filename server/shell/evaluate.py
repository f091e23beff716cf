"""`triptych eval`: how well a model tells the tokens of a text, in this process and without a server."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.settings import BadSetting, Settings, add_flags, read

if TYPE_CHECKING:
    from models.evaluation import Evaluation
    from server.engine.messages import ModelSetup
    from server.execution.telling import Teller, Text
    from server.shell.progress import Progress
    from server.text.tokenizer import Tokenizer

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_SETTINGS = ("model", "device", "dtype", "quantize", "threads", "kernels", "cache", "offline")
PRECISIONS = ("float32", "bfloat16", "keep", "int8", "int4")


def add_command(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="perplexity of a decoder, or how often an encoder tells hidden tokens",
        description="A decoder tells every token of a text from those before it; an encoder every seventh, "
        "which is hidden from it.",
    )
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="a text in UTF-8")
    parser.add_argument(
        "--window", type=_positive, metavar="TOKENS", help="at most, that the model sees at once (1024)"
    )
    parser.add_argument(
        "--stride",
        type=_positive,
        metavar="TOKENS",
        help="a decoder's windows begin so far apart (half of one)",
    )
    parser.add_argument("--most", type=_positive, metavar="TOKENS", help="read only so many of the text")
    parser.add_argument("--against", choices=PRECISIONS, help="compare with the same model in this precision")
    parser.add_argument("--json", action="store_true", help="the results as one object")
    add_flags(parser, _SETTINGS)
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Prints the results; the exit status. Raises BadSetting and ModelError."""
    from models.weights.sources import SMOLLM2
    from server.execution.device import DeviceError
    from server.execution.telling import CannotTell
    from server.shell.progress import Progress, show_log

    show_log()
    settings = read(vars(args))
    settings = settings if settings.model else replace(settings, model=(SMOLLM2.name,))
    if len(settings.model) > 1:
        raise BadSetting("--model: eval takes one")
    progress = Progress()
    try:
        about, result = _evaluate(settings, args, progress)
    except (DeviceError, CannotTell) as error:
        raise BadSetting(f"{settings.model[0]}: {error}") from error
    finally:
        progress.clear()
    known = {name: value for name, value in asdict(result).items() if value is not None}
    print(json.dumps(about | known, indent=2) if args.json else _table(about, result))
    return 0


def _evaluate(
    settings: Settings, args: argparse.Namespace, progress: Progress
) -> tuple[dict[str, str | None], Evaluation]:
    """What was asked, in words, and what the model says."""
    from server.execution.telling import Windows, tell
    from server.model_setups import bring_models
    from server.text.tokenizer import load_tokenizer

    written = _read_text(args.text)
    [setup] = bring_models(settings)
    text = _text(load_tokenizer(Path(setup.path)), written, args.most)
    progress("loading")
    teller = _teller(settings, setup)
    against = None if args.against is None else _teller(_in_precision(settings, args.against), setup)
    result = tell(
        text,
        teller,
        Windows(size=args.window, stride=args.stride),
        against=against,
        watch=lambda told, of: progress(f"{told:,} of {of:,} tokens told"),
    )
    about = {
        "model": settings.model[0],
        "precision": teller.precision,
        "kernels": teller.computing.kernels_name,
        "against": None if against is None else against.precision,
    }
    return about, result


def _teller(settings: Settings, setup: ModelSetup) -> Teller:
    from server.execution.telling import Teller
    from server.shell.measuring.bringing import load

    computing, model = load(settings, setup)
    return Teller(model=model, computing=computing)


def _in_precision(settings: Settings, precision: str) -> Settings:
    if precision in ("float32", "bfloat16"):
        return replace(settings, dtype=precision, quantize="none")
    return replace(settings, quantize=precision)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSetting(f"--text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadSetting(f"--text {path} is no text in UTF-8") from error


def _text(tokenizer: Tokenizer, written: str, most: int | None) -> Text:
    from server.execution.telling import Text

    return Text(
        tokens=tokenizer.encode(written, add_special_tokens=False)[:most],
        bos=tokenizer.bos_id,
        mask=tokenizer.mask_id,
        around=_around(tokenizer),
    )


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a text."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    start = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _table(about: dict[str, Any], result: Evaluation) -> str:
    lines = [
        ("model", about["model"]),
        ("precision", about["precision"]),
        ("kernels", about["kernels"]),
        ("tokens told", f"{result.tokens:,}"),
        ("perplexity", f"{result.perplexity:.4f}"),
        ("first choice right", f"{result.top_1:.2%}"),
        ("among the first five", f"{result.top_5:.2%}"),
    ]
    if result.other_perplexity and result.agreement is not None and result.divergence is not None:
        ratio = result.perplexity / result.other_perplexity - 1
        lines += [
            (f"perplexity in {about['against']}", f"{result.other_perplexity:.4f} ({ratio:+.2%} here)"),
            ("same first choice", f"{result.agreement:.2%}"),
            ("divergence", f"{result.divergence:.5f} nats"),
        ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)

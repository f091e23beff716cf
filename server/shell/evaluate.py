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
    parser.add_argument("--window", type=int, help="tokens at most that the model sees at once (1024)")
    parser.add_argument(
        "--stride", type=int, help="a decoder's windows begin so many tokens apart (half of one)"
    )
    parser.add_argument("--most", type=int, help="read only so many tokens of the text")
    parser.add_argument("--against", choices=PRECISIONS, help="compare with the same model in this precision")
    parser.add_argument("--json", action="store_true", help="the results as one object")
    add_flags(parser, _SETTINGS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the results; the exit status. Raises BadSetting, ModelError and DeviceError."""
    from models.weights.sources import SMOLLM2
    from server.execution.device import DeviceError
    from server.shell.evaluation import evaluate_text

    settings = read(vars(args))
    settings = settings if settings.model else replace(settings, model=(SMOLLM2.name,))
    if len(settings.model) > 1:
        raise BadSetting("--model: eval takes one")
    try:
        result = evaluate_text(
            settings,
            _read_text(args.text),
            against=None if args.against is None else _in_precision(settings, args.against),
            window=args.window,
            stride=args.stride,
            most=args.most,
        )
    except (DeviceError, ValueError) as error:
        raise BadSetting(str(error)) from error
    known = {name: value for name, value in asdict(result).items() if value is not None}
    about = {"model": settings.model[0], "precision": _precision(settings), "against": args.against}
    print(json.dumps(about | known, indent=2) if args.json else _table(about, result))
    return 0


def _in_precision(settings: Settings, precision: str) -> Settings:
    if precision in ("float32", "bfloat16"):
        return replace(settings, dtype=precision, quantize="none")
    return replace(settings, quantize=precision)


def _precision(settings: Settings) -> str:
    return settings.dtype if settings.quantize == "none" else settings.quantize


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSetting(f"--text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadSetting(f"--text {path} is no text in UTF-8") from error


def _table(about: dict[str, Any], result: Evaluation) -> str:
    lines = [
        ("model", about["model"]),
        ("precision", about["precision"]),
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

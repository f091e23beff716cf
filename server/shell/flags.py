"""How to generate, as flags of the shell commands: `triptych generate`, `chat`, `summarize`, `translate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych_client import Options, TextOptions

EARLY_STOPPING: dict[str, Any] = {"true": True, "false": False, "never": "never"}


def add_text_flags(parser: argparse.ArgumentParser, *, max_new_tokens: int | None) -> None:
    """Adds the flags that `text_options` reads; `max_new_tokens` is for a call that gives none, if any is."""
    usual = "as the model's folder says" if max_new_tokens is None else max_new_tokens
    parser.add_argument(
        "--max-new-tokens", type=int, default=max_new_tokens, help=f"tokens at most ({usual})"
    )
    parser.add_argument("--stop", action="append", help="end before this string; may be given several times")
    parser.add_argument("--ignore-eos", action="store_true", help="go on when the model would end")
    parser.add_argument(
        "--deadline",
        type=float,
        help="seconds after which the text ends where it stands; a summary or translation is refused then",
    )
    parser.add_argument("--model", help="which of the loaded models, or of their adapters")
    _add_choosing(parser.add_argument_group("how tokens are chosen"))
    _add_search(parser.add_argument_group("beam search"))


def add_flags(parser: argparse.ArgumentParser, *, max_new_tokens: int) -> None:
    """Adds the flags that `options` reads; `max_new_tokens` is for a call that gives none."""
    add_text_flags(parser, max_new_tokens=max_new_tokens)
    _add_shapes(parser.add_argument_group("what the text must be").add_mutually_exclusive_group())


def _add_choosing(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--temperature", type=float, help="0 is greedy, 1 the model's own distribution")
    group.add_argument("--top-k", type=int, help="choose among this many most probable tokens")
    group.add_argument("--top-p", type=float, help="choose among those that hold this much probability")
    group.add_argument("--min-p", type=float, help="drop those below this fraction of the most probable")
    group.add_argument("--repetition-penalty", type=float, help="above 1: say less of what was said")
    group.add_argument("--seed", type=int, help="equal seeds give equal text")
    group.add_argument(
        "--set",
        type=_setting,
        action="append",
        metavar="NAME=VALUE",
        help="any other parameter of the server's, such as dry_multiplier=0.8; may be given several times",
    )


def _add_search(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--num-beams", type=int, help="follow so many texts, and take the most probable")
    group.add_argument("--length-penalty", type=float, help="above 0, long texts win")
    group.add_argument(
        "--early-stopping",
        type=_early_stopping,
        metavar="true|false|never",
        help="end at so many whole texts, or once better is unlikely (false), or impossible (never)",
    )


def _add_shapes(group: argparse._MutuallyExclusiveGroup) -> None:
    group.add_argument("--json-schema", type=_text_of, metavar="FILE", help="JSON that obeys this schema")
    group.add_argument("--regex", help="what this regular expression matches")
    group.add_argument("--choice", action="append", help="this string, or another; give it several times")
    group.add_argument("--grammar", type=_text_of, metavar="FILE", help="what this Lark grammar derives")


def text_options(args: argparse.Namespace) -> TextOptions:
    """What was typed of the flags of `add_text_flags`, as the client takes it."""
    return {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "num_beams": args.num_beams,
        "length_penalty": args.length_penalty,
        "early_stopping": args.early_stopping,
        "repetition_penalty": args.repetition_penalty,
        "seed": args.seed,
        "stop": args.stop,
        "ignore_eos": args.ignore_eos or None,
        "timeout_s": args.deadline,
        "model": args.model,
        "extra": dict(args.set) if args.set else None,
    }


def options(args: argparse.Namespace) -> Options:
    """What was typed of the flags of `add_flags`, as the client takes it."""
    return {
        **text_options(args),
        "json_schema": args.json_schema,
        "regex": args.regex,
        "choices": args.choice,
        "grammar": args.grammar,
        "n": None,  # these three are no flags of every command
        "top_logprobs": None,
        "receipt": None,
    }


def _early_stopping(argument: str) -> Any:
    if argument not in EARLY_STOPPING:
        raise argparse.ArgumentTypeError("must be true, false or never")
    return EARLY_STOPPING[argument]


def _setting(argument: str) -> tuple[str, Any]:
    """NAME=VALUE; a value that is no JSON is a string."""
    name, equals, value = argument.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{path} is no text in UTF-8") from None

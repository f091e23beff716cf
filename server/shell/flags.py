"""How to generate, as flags of the shell commands: `triptych generate` and `chat`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych_client import Options


def add_flags(parser: argparse.ArgumentParser, *, max_new_tokens: int) -> None:
    """Adds the flags that `options` reads; `max_new_tokens` is for a call that gives none."""
    parser.add_argument(
        "--max-new-tokens", type=int, default=max_new_tokens, help="tokens at most (%(default)s)"
    )
    parser.add_argument("--stop", action="append", help="end before this string; may be given several times")
    parser.add_argument("--ignore-eos", action="store_true", help="go on when the model would end")
    parser.add_argument("--deadline", type=float, help="seconds after which the text ends where it stands")
    parser.add_argument("--model", help="which of the loaded models")
    _add_choosing(parser.add_argument_group("how tokens are chosen"))
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


def _add_shapes(group: argparse._MutuallyExclusiveGroup) -> None:
    group.add_argument("--json-schema", type=_text_of, metavar="FILE", help="JSON that obeys this schema")
    group.add_argument("--regex", help="what this regular expression matches")
    group.add_argument("--choice", action="append", help="this string, or another; give it several times")
    group.add_argument("--grammar", type=_text_of, metavar="FILE", help="what this Lark grammar derives")


def options(args: argparse.Namespace) -> Options:
    """What was typed, as the client takes it."""
    return {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "seed": args.seed,
        "stop": args.stop,
        "ignore_eos": args.ignore_eos or None,
        "timeout_s": args.deadline,
        "model": args.model,
        "json_schema": args.json_schema,
        "regex": args.regex,
        "choices": args.choice,
        "grammar": args.grammar,
        "extra": dict(args.set) if args.set else None,
    }


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

"""What the shell commands read, and what they show."""

from __future__ import annotations

import re
import sys

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline: a terminal might obey them


def text_of(argument: str) -> str:
    """The argument itself, or for `-` what standard input holds, less the newline that ends it."""
    return sys.stdin.read().removesuffix("\n") if argument == "-" else argument


def show(text: str) -> None:
    """Print a piece of text at once."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text; for a terminal, without what it might obey."""
    return CONTROL.sub("", text) if sys.stdout.isatty() else text


def complain(name: str, error: Exception, *, status: int) -> int:
    """One line about what went wrong with `triptych NAME`; returns `status`."""
    print(f"triptych {name}: {error}", file=sys.stderr)
    return status

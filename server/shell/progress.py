"""What a long command in this process says of itself, on standard error."""

from __future__ import annotations

import logging
import sys


class Progress:
    """A line on a terminal that says what is being done, and silence anywhere else."""

    def __init__(self) -> None:
        self._speaks = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._speaks:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        self("")


def show_log() -> None:
    """What the engine process would say of a model: that kernels are compiled, or missing."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)

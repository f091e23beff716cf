"""A bar on a terminal, and silence anywhere else."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from triptych_client.bench.plan import Tally

CELLS = 30


class Bar:
    """Call it with the tally, as often as you like. `clear` takes it off the terminal again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began_s: float | None = None
        self._speaks = stream.isatty()

    def __call__(self, tally: Tally) -> None:
        if not self._speaks:
            return
        self._began_s = self._began_s or time.perf_counter()
        line = self._line(tally, time.perf_counter() - self._began_s)
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap, and never be overwritten
        self._stream.write(f"\r{line[:width]}\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        if self._speaks and self._began_s is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _line(self, tally: Tally, passed_s: float) -> str:
        full = CELLS * tally.ended // tally.requests
        line = (
            f"[{'#' * full}{'.' * (CELLS - full)}] {tally.ended}/{tally.requests} requests, {passed_s:.0f} s"
        )
        if tally.tokens and passed_s:
            line += f", {tally.tokens / passed_s:.0f} tok/s"
        return line + (f", {tally.failed} failed" if tally.failed else "")

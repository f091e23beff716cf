"""What a worker is told, and how it answers: needs the standard library only."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One measurement, or one file to make. `output` gets a line for each figure as soon as it is there.

    model: a folder or file. precision: what the engine calls it. at_least_s: how long each figure of an
    encoder is measured. repeats: how often one of a decoder is; the best counts.
    """

    model: str
    output: str
    precision: str = ""
    threads: int = 1
    repeats: int = 2
    at_least_s: float = 1.0
    full_logits: bool = False  # of an encoder: scores of every word for every token, not an embedding
    compiled: bool = False
    flags: tuple[str, ...] = ()  # of `triptych serve`

    @classmethod
    def read(cls) -> Task:
        """From the command line of a worker: its only argument, as JSON."""
        fields = json.loads(sys.argv[1])
        return cls(**{**fields, "flags": tuple(fields.get("flags", ()))})

    def report(self, figure: str, value: float) -> None:
        with Path(self.output).open("a", encoding="utf-8") as lines:
            print(json.dumps({figure: value}), file=lines)

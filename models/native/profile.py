"""Where the time of a step goes, operation by operation, and how near each is to what the machine can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int32
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.native.library import Library
from models.native.limits import Limits
from models.native.program import Program
from models.native.structures import Format, Heads, Kind, Operation, Run, View, Weight

_ELEMENT = {Format.FLOAT32: 4, Format.BFLOAT16: 2}


@dataclass(slots=True, kw_only=True)
class Total:
    """All operations of one name: time, bytes moved, multiplications and additions."""

    calls: int = 0
    seconds: float = 0.0
    nbytes: float = 0.0
    arithmetic: float = 0.0
    least_seconds: float = 0.0  # at the machine's limits

    @property
    def of_limit(self) -> float:
        """Which part of the limit it reaches; 0 where it moves and computes next to nothing."""
        return self.least_seconds / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Profile:
    """What the programs of a library took, by the names of operations, since it was opened."""

    limits: Limits
    totals: dict[str, Total] = field(default_factory=dict)

    @contextmanager
    def observe(self, program: Program, run: Run) -> Iterator[None]:
        """Within, `program` computes `run`."""
        times = np.zeros(len(program.operations), np.int64)
        run.nanoseconds = times.ctypes.data
        yield
        for index in range(run.first, run.last):
            total = self.totals.setdefault(program.names[index], Total())
            operation, matrix = program.operations[index], program.matrices[index]
            cost = _cost(operation, matrix, run)
            total.calls += 1
            total.seconds += times[index] / 1e9
            total.nbytes += cost.nbytes
            total.arithmetic += cost.arithmetic
            total.least_seconds += self.limits.seconds(cost.nbytes, cost.arithmetic, cost.format)


@contextmanager
def profiling(library: Library, limits: Limits) -> Iterator[Profile]:
    """Within, every operation is timed."""
    library.profile = Profile(limits)
    try:
        yield library.profile
    finally:
        library.profile = None


@dataclass(frozen=True, slots=True)
class _Cost:
    nbytes: float
    arithmetic: float = 0.0
    format: Format = Format.FLOAT32  # of the arithmetic


def _cost(operation: Operation, matrix: Weight | None, run: Run) -> _Cost:
    """Of the matrix and the cache only: rows of the stream stay in caches."""
    if matrix is not None:
        arithmetic = 2.0 * run.tokens * matrix.inputs * matrix.outputs
        return _Cost(matrix.nbytes, arithmetic, Format(matrix.operand))
    if operation.kind == Kind.ATTEND:
        return _attention(operation.heads.contents, run.views[operation.view])
    return _Cost(0.0)


def _attention(heads: Heads, view: View) -> _Cost:
    """A key and a value for each that is read, an inner product and a sum for each that is seen."""
    element = _ELEMENT[Format(heads.format)]
    rows, starts, lengths = (
        _numbers(address, count)
        for address, count in (
            (view.rows, view.slices + 1),
            (view.starts, view.slices),
            (view.lengths, view.slices),
        )
    )
    counts = np.diff(rows)
    last = starts + counts if heads.causal else lengths
    seen = counts * last - counts * (counts - 1) / 2 if heads.causal else counts * last
    if heads.window:
        seen = np.minimum(seen, counts * heads.window)
    read = np.minimum(lengths, heads.window + counts) if heads.window else lengths
    nbytes = 2.0 * float(read.sum()) * heads.kv_heads * heads.padded_dim * element
    return _Cost(nbytes, 4.0 * float(seen.sum()) * heads.heads * heads.padded_dim, Format(heads.format))


def _numbers(address: int, count: int) -> NDArray[np.int32]:
    return np.ctypeslib.as_array((c_int32 * count).from_address(address))

"""Where the time of a step goes, operation by operation, and what each has to move and to compute.

The costs are the least there are: a matrix, keys and values are read once. Rows of the stream stay in caches,
and count for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int32
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.native.library import Library
from models.native.limits import Limits
from models.native.program import Program
from models.native.structures import Format, Heads, Kind, Operation, Run, View, Weight

_ELEMENT = {Format.FLOAT32: 4, Format.BFLOAT16: 2}

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Kin:
    """Operations that count as one: equal in name, in what they read, and in the format they compute in."""

    name: str
    operand: str  # "576x1536 q8_0", "9 heads of 64 on 3"; empty where there is nothing but rows
    format: Format = Format.FLOAT32


@dataclass(slots=True, kw_only=True)
class Total:
    """Of all operations of a kin: bytes of matrices, of keys and values; multiplications and additions."""

    calls: int = 0
    seconds: float = 0.0
    matrix_bytes: float = 0.0
    cache_bytes: float = 0.0
    arithmetic: float = 0.0

    @property
    def nbytes(self) -> float:
        return self.matrix_bytes + self.cache_bytes

    def add(self, cost: Cost, seconds: float) -> None:
        self.calls += 1
        self.seconds += seconds
        self.matrix_bytes += cost.matrix_bytes
        self.cache_bytes += cost.cache_bytes
        self.arithmetic += cost.arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one operation."""

    matrix_bytes: float = 0.0
    cache_bytes: float = 0.0
    arithmetic: float = 0.0


class Profile:
    """What the programs of a library took, by kin, in the order in which they first ran.

    `own_seconds`: what writing this down took, which is nothing of theirs.
    """

    def __init__(self) -> None:
        self.totals = dict[Kin, Total]()
        self.own_seconds = 0.0

    @contextmanager
    def observe(self, program: Program, run: Run) -> Iterator[None]:
        """Within, `program` computes `run`."""
        times = np.zeros(len(program.operations), np.int64)
        run.nanoseconds = times.ctypes.data
        yield
        began = time.perf_counter()
        for index in range(run.first, run.last):
            operation, matrix = program.operations[index], program.matrices[index]
            total = self.totals.setdefault(kin_of(program.names[index], operation, matrix), Total())
            total.add(cost_of(operation, matrix, run), float(times[index]) / 1e9)
        self.own_seconds += time.perf_counter() - began


@contextmanager
def profiling(library: Library) -> Iterator[Profile]:
    """Within, every operation is timed."""
    library.profile = Profile()
    try:
        yield library.profile
    finally:
        library.profile = None


def of_limit(kin: Kin, total: Total, limits: Limits) -> float | None:
    """Which part of what the machine can do is reached; None where next to nothing is moved and computed."""
    if not total.seconds or not (total.nbytes or total.arithmetic):
        return None
    return limits.seconds(total.nbytes, total.arithmetic, kin.format) / total.seconds


def kin_of(name: str, operation: Operation, matrix: Weight | None) -> Kin:
    if matrix is not None:
        operand = f"{matrix.inputs}x{matrix.outputs} {Format(matrix.format).name.lower()}"
        return Kin(name, operand, Format(matrix.operand))
    if operation.kind != Kind.ATTEND:
        return Kin(name, "")
    heads = operation.heads.contents
    shared = f" on {heads.kv_heads}" if heads.kv_heads != heads.heads else ""
    sources = ", to sources" if operation.view else ""
    return Kin(name, f"{heads.heads} heads of {heads.head_dim}{shared}{sources}", Format(heads.format))


def cost_of(operation: Operation, matrix: Weight | None, run: Run) -> Cost:
    """What `operation` moves and computes of `run`. Its views must be alive."""
    if matrix is not None:
        arithmetic = 2.0 * run.tokens * matrix.inputs * matrix.outputs
        return Cost(matrix_bytes=matrix.nbytes, arithmetic=arithmetic)
    if operation.kind == Kind.ATTEND:
        return _attention(operation.heads.contents, run.views[operation.view])
    return Cost()


def _attention(heads: Heads, view: View) -> Cost:
    """A key and a value for each that is read; for each that a query sees an inner product and a sum."""
    counts = np.diff(_numbers(view.rows, view.slices + 1))
    starts, lengths = _numbers(view.starts, view.slices), _numbers(view.lengths, view.slices)
    read, seen = _behind(heads, starts, counts) if heads.causal else _everywhere(heads, counts, lengths)
    nbytes = 2.0 * float(read.sum()) * heads.kv_heads * heads.padded_dim * _ELEMENT[Format(heads.format)]
    return Cost(cache_bytes=nbytes, arithmetic=4.0 * float(seen.sum()) * heads.heads * heads.padded_dim)


def _behind(heads: Heads, starts: Counts, counts: Counts) -> tuple[Counts, Counts]:
    """Of queries that see what is behind them: keys read by a slice, and seen by its queries together."""
    ends = starts + counts
    window = heads.window or int(ends.max(initial=0))
    return np.minimum(ends, counts + window - 1), _sums(ends, window) - _sums(starts, window)


def _everywhere(heads: Heads, counts: Counts, lengths: Counts) -> tuple[Counts, Counts]:
    """Of queries that see the whole text, or so far to both sides: then the text is their own."""
    if not heads.window:
        return lengths, counts * lengths
    return lengths, lengths + 2 * _sums(lengths - 1, heads.window)


def _sums(behind: Counts, window: int) -> Counts:
    """1 + 2 + ... up to `behind`, where no summand is larger than `window`."""
    rising = np.minimum(behind, window)
    return rising * (rising + 1) // 2 + (behind - rising) * window


def _numbers(address: int, count: int) -> Counts:
    return np.ctypeslib.as_array((c_int32 * count).from_address(address)).astype(np.int64)

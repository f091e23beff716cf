"""What this machine can do at best: what operations are measured against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from models.native.library import Library
from models.native.memory import Arena
from models.native.structures import Format

OPERANDS = (Format.FLOAT32, Format.BFLOAT16, Format.INT8)
BEYOND_CACHES = 256 << 20  # bytes, far more than any cache holds
_LEAST_BYTES = 1 << 20
_ROUNDS = 2_000_000
_TRIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of all threads together: bytes a second, multiplications and additions a second.

    `memory_per_s`: from memory; `reread_per_s`: of what is read again and again, as steps read matrices:
    where that is little, caches keep some of it.
    """

    memory_per_s: float
    reread_per_s: float
    operations_per_s: Mapping[Format, float]

    def seconds(self, nbytes: float, operations: float, format_: Format) -> float:
        """What reading so much of it and computing so much takes at least: one hides the other."""
        return max(nbytes / self.reread_per_s, operations / self.operations_per_s[format_])


def measure_reading(threads: int, nbytes: int) -> float:
    """Bytes a second: each thread takes the largest number of its share of a table, over and over.

    The table has `nbytes`, between `BEYOND_CACHES` and a megabyte.
    """
    size = min(max(nbytes, _LEAST_BYTES), BEYOND_CACHES) // 8 * 8
    table = Arena().allocate(size).numpy().view(np.int64)
    table.fill(1)  # pages that nobody wrote are all the same one
    shares = np.array_split(table, threads)
    times = -(-BEYOND_CACHES // size)

    def read(share: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        for _ in range(times):
            share.max()

    with ThreadPoolExecutor(threads) as pool:
        return times * size / min(_timed(lambda: list(pool.map(read, shares))) for _ in range(_TRIES))


def measure_arithmetic(library: Library) -> dict[Format, float]:
    """Multiplications and additions a second, counted one by one, by the format of what is multiplied."""
    return {format_: _multiply(library, format_) for format_ in OPERANDS}


def _multiply(library: Library, format_: Format) -> float:
    threads = library.threads
    sinks = np.zeros((threads, 16), np.float32)

    def one(thread: int) -> int:
        return int(library.peak(format_, _ROUNDS, sinks[thread].ctypes.data))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(threads)))  # wakes the threads up
        operations = threads * one(0)
        return operations / min(_timed(lambda: list(pool.map(one, range(threads)))) for _ in range(_TRIES))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

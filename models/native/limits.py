"""What this machine can do at best: what operations are measured against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from models.native.library import Library
from models.native.structures import Format

OPERANDS = (Format.FLOAT32, Format.BFLOAT16, Format.INT8)
_BYTES = 256 << 20  # far more than any cache holds
_ROUNDS = 2_000_000
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of all threads together: bytes a second from memory, multiplications and additions a second."""

    bytes_per_s: float
    operations_per_s: Mapping[Format, float]

    def seconds(self, nbytes: float, operations: float, format_: Format) -> float:
        """What moving so much and computing so much takes at least: one hides the other."""
        return max(nbytes / self.bytes_per_s, operations / self.operations_per_s[format_])


def measure(library: Library) -> Limits:
    """The best of a few tries each; about a second."""
    threads = library.threads
    return Limits(
        bytes_per_s=_read(threads),
        operations_per_s={format_: _multiply(library, format_, threads) for format_ in OPERANDS},
    )


def _read(threads: int) -> float:
    """Bytes a second: each thread takes the largest number of its share of a table."""
    parts = np.array_split(np.ones(_BYTES // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:
        return _BYTES / min(_timed(lambda: list(pool.map(np.max, parts))) for _ in range(_TRIES))


def _multiply(library: Library, format_: Format, threads: int) -> float:
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

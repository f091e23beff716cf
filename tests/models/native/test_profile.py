"""What a profile counts is what operations move and compute, and adds up."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.native.library import Library
from models.native.limits import OPERANDS, Limits, measure_arithmetic, measure_reading
from models.native.profile import Cost, Kin, Total, cost_of, of_limit, profiling
from models.native.structures import Format, Heads, Kind, Operation, Run, View
from models.native.weights import Matrix

ELEMENT = {Format.FLOAT32: 4, Format.BFLOAT16: 2}


def heads_of(**fields: object) -> Heads:
    shape = {"heads": 6, "kv_heads": 2, "head_dim": 20, "padded_dim": 32, "format": Format.BFLOAT16}
    return Heads(**{**shape, **fields})


def attention(heads: Heads, slices: Iterable[tuple[int, int, int]]) -> Cost:
    """Of slices (start, count, length)."""
    starts, counts, lengths = (np.array(one, np.int32) for one in zip(*slices, strict=True))
    rows = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    view = View(
        slices=len(starts), rows=rows.ctypes.data, starts=starts.ctypes.data, lengths=lengths.ctypes.data
    )
    run = Run(tokens=int(rows[-1]))
    run.views[1] = view
    operation = Operation(kind=Kind.ATTEND, heads=ctypes.pointer(heads), view=1)
    return cost_of(operation, None, run)


def counted(heads: Heads, slices: Iterable[tuple[int, int, int]]) -> Cost:
    """The same, key by key."""
    read = seen = 0
    for start, count, length in slices:
        pairs = [
            (query, key)
            for query in range(start, start + count)
            for key in range(length)
            if (not heads.causal or key <= query)
            and (
                not heads.window
                or (query - key < heads.window if heads.causal else abs(query - key) <= heads.window)
            )
        ]
        read += len({key for _, key in pairs})
        seen += len(pairs)
    nbytes = 2 * read * heads.kv_heads * heads.padded_dim * ELEMENT[Format(heads.format)]
    return Cost(cache_bytes=nbytes, arithmetic=4 * seen * heads.heads * heads.padded_dim)


@pytest.mark.parametrize("window", [0, 1, 5, 40])
def test_queries_see_what_is_behind_them(window: int) -> None:
    slices = [(0, 1, 1), (0, 30, 30), (17, 1, 18), (16, 33, 49), (3, 4, 7)]
    heads = heads_of(causal=True, window=window)
    assert attention(heads, slices) == counted(heads, slices)


@pytest.mark.parametrize("window", [0, 1, 5, 40])
@pytest.mark.parametrize("format_", ELEMENT)
def test_an_encoder_s_texts_are_seen_to_both_sides(window: int, format_: Format) -> None:
    slices = [(0, length, length) for length in (1, 2, 9, 40, 77)]
    heads = heads_of(window=window, format=format_)
    assert attention(heads, slices) == counted(heads, slices)


def test_sources_are_seen_whole() -> None:
    slices = [(0, 1, 50), (0, 3, 7)]
    assert attention(heads_of(), slices) == counted(heads_of(), [(0, 1, 50), (0, 3, 7)])


@pytest.mark.parametrize(
    ("format_", "bits"),
    [(Format.FLOAT32, 32), (Format.BFLOAT16, 16), (Format.Q8_0, 8.5), (Format.Q4_1, 5)],
)
def test_a_matrix_costs_its_bytes_as_they_lie(kernels: Library, format_: Format, bits: float) -> None:
    operand = format_ if format_ in ELEMENT else Format.INT8
    matrix = Matrix(kernels, torch.randn(64, 128), None, format_, operand=operand)
    with profiling(kernels) as profile:
        matrix(torch.randn(3, 128))
    [(kin, total)] = [(kin, total) for kin, total in profile.totals.items() if total.matrix_bytes]
    assert kin == Kin("product", f"128x64 {format_.name.lower()}", operand)
    assert (total.calls, total.matrix_bytes) == (1, 64 * 128 * bits / 8)
    assert total.arithmetic == 2 * 3 * 64 * 128


def test_parts_are_no_longer_than_the_whole(kernels: Library) -> None:
    matrix = Matrix(kernels, torch.randn(512, 512), None, Format.FLOAT32)
    rows = torch.randn(40, 512)
    matrix(rows)
    with profiling(kernels) as profile:
        began = time.perf_counter()
        for _ in range(20):
            matrix(rows)
        whole = time.perf_counter() - began - profile.own_seconds
    parts = sum(total.seconds for total in profile.totals.values())
    assert 0.0 < parts < whole
    assert profile.own_seconds > 0.0
    assert {total.calls for total in profile.totals.values()} == {20}


def test_nobody_is_timed_outside(kernels: Library) -> None:
    matrix = Matrix(kernels, torch.randn(32, 64), None, Format.FLOAT32)
    with pytest.raises(RuntimeError), profiling(kernels) as profile:
        raise RuntimeError
    matrix(torch.randn(1, 64))
    assert profile.totals == {}
    assert kernels.profile is None


def test_the_larger_of_moving_and_computing_is_the_limit() -> None:
    limits = Limits(memory_per_s=5.0, reread_per_s=10.0, operations_per_s=dict.fromkeys(OPERANDS, 100.0))
    total = Total(calls=1, seconds=8.0, matrix_bytes=10.0, cache_bytes=10.0, arithmetic=400.0)
    assert of_limit(Kin("product", ""), total, limits) == 0.5
    assert of_limit(Kin("product", ""), replace(total, arithmetic=100.0), limits) == 0.25
    assert of_limit(Kin("norm", ""), Total(calls=1, seconds=1.0), limits) is None


def test_small_tables_are_read_no_more_slowly_than_large_ones(kernels: Library) -> None:
    """They lie in caches. Twice as fast would be true on any machine that is idle; this one may not be."""
    small, large = measure_reading(kernels.threads, 1 << 20), measure_reading(kernels.threads, 1 << 28)
    assert small > 0.7 * large > 0.0


def test_short_formats_are_multiplied_no_more_slowly(kernels: Library) -> None:
    rates = measure_arithmetic(kernels)
    assert set(rates) == set(OPERANDS)
    if kernels.name == "avx512":
        assert rates[Format.INT8] > rates[Format.FLOAT32] > 1e9

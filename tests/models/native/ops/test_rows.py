"""Norms, functions and operands, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.native.library import Library
from models.native.structures import Format, Function, NormKind
from tests.models.native.ops.operations import (
    LIMITS,
    ORACLES,
    Norm,
    activate,
    close,
    normalise,
    random,
    rounded_to_bytes,
)

FLOATS = (Format.FLOAT32, Format.BFLOAT16)
OPERANDS = (*FLOATS, Format.INT8)
tokens = st.sampled_from((1, 2, 3, 5, 17, 33, 70, 129))
widths = st.integers(1, 300)


@given(
    tokens=tokens,
    width=widths,
    kind=st.sampled_from(NormKind),
    weighted=st.booleans(),
    biased=st.booleans(),
    how=st.sampled_from(("apart", "added", "in place")),
    operand=st.sampled_from((None, *FLOATS)),
)
@settings(max_examples=60, deadline=None)
def test_norms_equal_their_formula(
    library: Library,
    tokens: int,
    width: int,
    kind: NormKind,
    weighted: bool,
    biased: bool,
    how: str,
    operand: Format | None,
) -> None:
    norm = Norm(
        kind=kind,
        weight=random(width, seed=1) if weighted and kind is not NormKind.NONE else None,
        bias=random(width, seed=2) if biased and kind is not NormKind.NONE else None,
    )
    rows, to = random(tokens, width) + 0.5, random(tokens, width, seed=3) if how == "added" else None
    result, made = normalise(library, rows, norm, to=to, in_place=how == "in place", operand=operand)
    expected = norm(rows.double()) + (0 if to is None else to)
    close(result, expected, 1e-5)
    if made is not None and operand is not None:
        assert torch.equal(made, result if operand is Format.FLOAT32 else result.bfloat16().float())


@pytest.mark.parametrize("width", [1, 31, 45, 64, 77, 128, 576])
def test_bytes_are_the_nearest_to_what_they_stand_for(library: Library, width: int) -> None:
    rows = random(7, width) * torch.logspace(-3, 3, 7)[:, None]
    rows[3] = 0
    _, made = normalise(library, rows, Norm(), operand=Format.INT8)
    assert made is not None
    assert torch.equal(made, rounded_to_bytes(rows).float())


@given(
    tokens=tokens,
    width=widths,
    function=st.sampled_from(Function),
    gated=st.booleans(),
    operand=st.sampled_from(FLOATS),
)
@settings(max_examples=60, deadline=None)
def test_functions_equal_their_formula(
    library: Library, tokens: int, width: int, function: Function, gated: bool, operand: Format
) -> None:
    rows = 3 * random(tokens, 2, width)
    made = activate(library, rows if gated else rows[:, 0], function, gated=gated, operand=operand)
    expected = ORACLES[function](rows[:, 0].double())
    close(made, expected * rows[:, 1] if gated else expected, LIMITS[operand])


@pytest.mark.parametrize("function", Function)
def test_functions_stand_numbers_of_any_size(library: Library, function: Function) -> None:
    sizes = [0.0, -0.0, 1e-30, -1e-30, 20, -20, 90, -90, 1e4, -1e4, 1e9, -1e9]
    rows = torch.tensor([[*sizes, math.nan, -math.nan, *sizes]])
    made = activate(library, rows, function, gated=False, operand=Format.FLOAT32)
    expected = ORACLES[function](rows.double())
    torch.testing.assert_close(made.double(), expected, rtol=2e-6, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("width", [7, 45, 64, 300])
@pytest.mark.parametrize("gated", [False, True])
def test_what_a_function_gives_is_rounded_to_bytes_as_any_row(
    library: Library, gated: bool, width: int
) -> None:
    rows = 3 * random(9, 2, width)
    given = rows if gated else rows[:, 0]
    floats, bytes_ = (
        activate(library, given, Function.SILU, gated=gated, operand=operand)
        for operand in (Format.FLOAT32, Format.INT8)
    )
    assert torch.equal(bytes_, rounded_to_bytes(floats).float())


@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("kind", [NormKind.LAYER, NormKind.RMS])
@pytest.mark.parametrize("width", [64, 77, 576])
def test_a_rows_norm_has_the_same_bits_alone_and_in_a_batch(
    library: Library, kind: NormKind, width: int, operand: Format
) -> None:
    norm = Norm(kind=kind, weight=random(width, seed=1), bias=random(width, seed=2))
    rows, to = random(70, width), random(70, width, seed=3)
    together = normalise(library, rows, norm, to=to, operand=operand)
    for row in (0, 1, 33, 69):
        alone = normalise(library, rows[row : row + 1], norm, to=to[row : row + 1], operand=operand)
        for one, all_ in zip(alone, together, strict=True):
            assert one is not None
            assert all_ is not None
            assert torch.equal(one[0], all_[row])


@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("function", Function)
@pytest.mark.parametrize("gated", [False, True])
def test_a_rows_function_has_the_same_bits_alone_and_in_a_batch(
    library: Library, function: Function, gated: bool, operand: Format
) -> None:
    rows = 3 * random(70, 2, 77)
    given = rows if gated else rows[:, 0]
    together = activate(library, given, function, gated=gated, operand=operand)
    for row in (0, 1, 33, 69):
        alone = activate(library, given[row : row + 1], function, gated=gated, operand=operand)
        assert torch.equal(alone[0], together[row])

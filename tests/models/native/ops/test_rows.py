"""Norms, functions and operands, row by row."""

from __future__ import annotations

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
)

FLOATS = (Format.FLOAT32, Format.BFLOAT16)
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


@pytest.mark.parametrize("width", [64, 128, 576])
def test_bytes_are_within_half_a_step_of_what_they_stand_for(library: Library, width: int) -> None:
    rows = random(7, width) * torch.logspace(-3, 3, 7)[:, None]
    rows[3] = 0
    _, made = normalise(library, rows, Norm(), operand=Format.INT8)
    assert made is not None
    groups = rows.view(7, -1, 32)
    step = groups.abs().amax(-1, keepdim=True) / 127
    assert ((made.view_as(groups) - groups).abs() <= 0.501 * step).all()


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
    rows = torch.tensor([[0.0, -0.0, 1e-30, -1e-30, 20, -20, 90, -90, 1e4, -1e4, 1e9, -1e9]])
    made = activate(library, rows, function, gated=False, operand=Format.FLOAT32)
    expected = ORACLES[function](rows.double())
    torch.testing.assert_close(made.double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", [NormKind.LAYER, NormKind.RMS])
@pytest.mark.parametrize("width", [64, 77, 576])
def test_a_rows_norm_has_the_same_bits_alone_and_in_a_batch(
    library: Library, kind: NormKind, width: int
) -> None:
    norm = Norm(kind=kind, weight=random(width, seed=1))
    rows = random(70, width)
    together, _ = normalise(library, rows, norm)
    for row in (0, 1, 33, 69):
        alone, _ = normalise(library, rows[row : row + 1], norm)
        assert torch.equal(alone[0], together[row])

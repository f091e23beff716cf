"""Matrices on their way into panels: nothing is lost, whatever they come as."""

from __future__ import annotations

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from models.native.library import Library
from models.native.structures import Format
from models.native.weights import Matrix
from models.weights.blocks import KEPT
from tests.models.native.ops.operations import random
from tests.models.native.ops.test_blocks import blocks_of, numbers_of

DTYPES = {Format.FLOAT32: torch.float32, Format.BFLOAT16: torch.bfloat16}


@given(
    outputs=st.integers(1, 300),
    inputs=st.integers(1, 200),
    given_as=st.sampled_from(tuple(DTYPES)),
    format_=st.sampled_from(tuple(DTYPES)),
    gated=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_rows_come_back_as_they_were_rounded(
    library: Library, outputs: int, inputs: int, given_as: Format, format_: Format, gated: bool
) -> None:
    rows = random(2 * outputs if gated else outputs, inputs, seed=2).to(DTYPES[given_as])
    matrix = Matrix(library, rows, None, format_, gated=gated)
    kept = rows.to(DTYPES[format_]).float()
    if gated:  # panels hold 16 rows of either half
        panels, halves = torch.arange(matrix.weight.outputs).view(-1, 2, 16), kept.view(2, outputs, inputs)
        for half in (0, 1):
            assert torch.equal(matrix.rows(panels[:, half].flatten())[:outputs], halves[half])
    else:
        assert torch.equal(matrix.rows(torch.arange(outputs)), kept)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("format_", DTYPES)
@pytest.mark.parametrize("kind", KEPT)
def test_blocks_are_packed_as_the_numbers_that_they_stand_for(
    library: Library, kind: Type, format_: Format, gated: bool
) -> None:
    blocks = blocks_of(kind, 2 * 89, 768)
    rows = numbers_of(blocks).to(DTYPES[format_])
    ours, theirs = (Matrix(library, each, None, format_, gated=gated) for each in (blocks, rows))
    assert torch.equal(ours._data, theirs._data)


def test_what_is_no_number_or_too_small_for_one_stays_so(library: Library) -> None:
    rows = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e-40, -0.0]]).expand(3, 5)
    for format_, dtype in DTYPES.items():
        back = Matrix(library, rows, None, format_).rows(torch.arange(3))
        assert torch.equal(back.nan_to_num(nan=7.0), rows.to(dtype).float().nan_to_num(nan=7.0))
        assert back[:, -1].signbit().all()

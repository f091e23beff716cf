"""Products with matrices in the blocks of GGUF files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from models.native.library import Library
from models.native.structures import Format
from models.native.weights import Matrix
from models.weights.blocks import KEPT, Blocks
from tests.models.native.ops.operations import random, rounded_to_bytes

OPERANDS = (Format.FLOAT32, Format.BFLOAT16)
COUNTS = (1, 2, 3, 4, 5, 8, 9, 17, 31, 70, 129, 300)


@pytest.fixture
def threads(library: Library) -> Iterator[list[int]]:
    """How many to try, and two again for others."""
    yield [1, 2, 3]
    library.start(library.name, 2)


def blocks_of(kind: Type, outputs: int, inputs: int) -> Blocks:
    """Random ones; of Q4_K, which the `gguf` package does not write, random bytes with small scales."""
    if kind is not Type.Q4_K:
        raw = quantize(random(outputs, inputs, seed=1).numpy() / inputs**0.5, kind)
        return Blocks(kind=kind, raw=torch.from_numpy(raw))
    draw = torch.Generator().manual_seed(1)
    nested = torch.randint(0, 256, (outputs, inputs // 256, 144), dtype=torch.uint8, generator=draw)
    halves = (torch.rand(outputs, inputs // 256, 2, generator=draw) / 500).half()
    nested[..., :4] = halves.view(torch.uint8)
    return Blocks(kind=kind, raw=nested.flatten(1))


def numbers_of(blocks: Blocks) -> Tensor:
    """What they stand for, as the `gguf` package has it."""
    return torch.from_numpy(dequantize(blocks.raw.numpy(), blocks.kind).copy())


@given(
    kind=st.sampled_from(KEPT),
    half=st.integers(1, 70),
    size=st.integers(1, 6),
    tokens=st.sampled_from((1, 2, 3, 8, 9, 33, 150)),
    operand=st.sampled_from(OPERANDS),
    gated=st.booleans(),
    biased=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_blocks_give_the_bits_of_the_matrix_that_they_stand_for(
    library: Library,
    kind: Type,
    half: int,
    size: int,
    tokens: int,
    operand: Format,
    gated: bool,
    biased: bool,
) -> None:
    inputs = size * (256 if kind is Type.Q4_K else 32)
    blocks = blocks_of(kind, 2 * half, inputs)
    bias = random(2 * half, seed=2) if biased else None
    kept = Matrix(library, blocks, bias, Format[kind.name], operand=operand, gated=gated)
    opened = Matrix(library, numbers_of(blocks), bias, operand, gated=gated)
    rows = random(tokens, inputs)
    assert torch.equal(kept(rows), opened(rows))


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("operand", OPERANDS)
def test_rows_of_blocks_are_looked_up_as_products_see_them(
    library: Library, kind: Type, operand: Format
) -> None:
    blocks = blocks_of(kind, 70, 512)
    kept = Matrix(library, blocks, None, Format[kind.name], operand=operand)
    opened = Matrix(library, numbers_of(blocks), None, operand)
    indices = torch.tensor([69, 0, 31, 32, 5, 5])
    assert torch.equal(kept.rows(indices), opened.rows(indices))


@given(
    kind=st.sampled_from(KEPT),
    half=st.integers(1, 70),
    size=st.integers(1, 6),
    tokens=st.sampled_from(COUNTS),
    gated=st.booleans(),
    biased=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_rows_of_bytes_and_blocks_multiply_exactly_but_for_the_sum_of_floats(
    library: Library, kind: Type, half: int, size: int, tokens: int, gated: bool, biased: bool
) -> None:
    inputs = size * (256 if kind is Type.Q4_K else 32)
    blocks = blocks_of(kind, 2 * half, inputs)
    bias = random(2 * half, seed=2) if biased else torch.zeros(2 * half)
    rows = random(tokens, inputs) * torch.logspace(-2, 2, tokens)[:, None]
    matrix = Matrix(
        library, blocks, bias if biased else None, Format[kind.name], operand=Format.INT8, gated=gated
    )
    exact, weight = rounded_to_bytes(rows), numbers_of(blocks).double()
    expected = exact @ weight.T + bias
    magnitude = exact.abs() @ weight.abs().T + bias.abs()  # what rounding of sums is in proportion to
    assert ((matrix(rows) - expected).abs() <= 1e-6 * magnitude + 1e-12).all()


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("operand", [*OPERANDS, Format.INT8])
def test_a_row_has_the_same_bits_alone_and_in_any_company(
    library: Library, kind: Type, operand: Format, threads: list[int]
) -> None:
    matrix = Matrix(library, blocks_of(kind, 352, 256), None, Format[kind.name], operand=operand)
    rows = random(300, 256)
    expected = matrix(rows)
    for number in threads:
        library.start(library.name, number)
        for count in COUNTS:
            assert torch.equal(matrix(rows[-count:]), expected[-count:]), (number, count)


@pytest.mark.parametrize("operand", [*OPERANDS, Format.INT8])
def test_what_is_no_number_is_not_taken_for_one(library: Library, operand: Format) -> None:
    matrix = Matrix(library, blocks_of(Type.Q8_0, 70, 96), None, Format.Q8_0, operand=operand)
    rows = random(10, 96)
    expected = matrix(rows)
    rows[3, 40] = torch.nan
    found = matrix(rows)
    assert found[3].isnan().all()
    others = torch.arange(10) != 3
    assert torch.equal(found[others], expected[others])


def rounded(library: Library, weight: Tensor, format_: Format) -> tuple[Tensor, Tensor]:
    """By block [rows, blocks, 32]: the weights, with zeros behind each row, and by how much they changed."""
    matrix = Matrix(library, weight, None, format_, operand=Format.FLOAT32)
    error = matrix.rows(torch.arange(len(weight))) - weight
    padded, errors = (pad(each, (0, -each.shape[1] % 32)) for each in (weight, error))
    return padded.view(len(weight), -1, 32), errors.view(len(weight), -1, 32)


@pytest.mark.parametrize("width", [32, 45, 96])
def test_eight_bits_are_off_by_half_a_step_at_most(library: Library, width: int) -> None:
    weight, error = rounded(library, random(70, width, seed=1), Format.Q8_0)
    steps = weight.abs().amax(-1, keepdim=True) / 127
    assert (error.abs() / steps).max() <= 0.501  # the scale is rounded, too, to half precision


@pytest.mark.parametrize("width", [32, 45, 96])
def test_four_bits_are_off_by_no_more_than_rounding_is_on_average(library: Library, width: int) -> None:
    """No single weight is held to half a step: a block may give up one for the sake of the others."""
    weight, error = rounded(library, random(70, width, seed=1), Format.Q4_1)
    steps = (weight.amax(-1) - weight.amin(-1)) / 15
    mean = (error.square().mean(-1).sqrt() / steps).mean()
    assert mean < 12**-0.5 + 0.01  # where all errors up to half a step are as frequent


def test_four_bits_are_no_worse_than_llama_cpp_makes_them(library: Library) -> None:
    weight = random(96, 256, seed=1)
    theirs = numbers_of(Blocks(kind=Type.Q4_1, raw=torch.from_numpy(quantize(weight.numpy(), Type.Q4_1))))
    ours = Matrix(library, weight, None, Format.Q4_1, operand=Format.FLOAT32).rows(torch.arange(96))
    assert (ours - weight).square().mean() < 0.9 * (theirs - weight).square().mean()


def test_what_was_four_bits_already_is_not_rounded_again(library: Library) -> None:
    weight = numbers_of(blocks_of(Type.Q4_1, 64, 256))
    again = Matrix(library, weight, None, Format.Q4_1, operand=Format.FLOAT32).rows(torch.arange(64))
    assert torch.equal(again, weight)

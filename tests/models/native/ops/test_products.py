"""Matrix products, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.native.library import Library
from models.native.structures import Format, Function
from models.native.weights import Matrix
from tests.models.native.ops.operations import (
    DTYPES,
    LIMITS,
    Norm,
    Product,
    close,
    normalise,
    random,
    rounded_to_bytes,
)

FLOATS = (Format.FLOAT32, Format.BFLOAT16)
COUNTS = (*range(1, 71), 129, 300)


@pytest.fixture
def threads(library: Library) -> Iterator[list[int]]:
    """How many to try, and two again for others."""
    yield [1, 2, 3]
    library.start(library.name, 2)


def weights(outputs: int, inputs: int, format_: Format) -> Tensor:
    scale: float = inputs**-0.5
    return (random(outputs, inputs, seed=1) * scale).to(DTYPES[format_]).float()


@given(
    tokens=st.sampled_from((1, 2, 3, 4, 5, 8, 9, 31, 70, 129, 300)),
    inputs=st.integers(1, 200),
    half=st.integers(1, 80),
    format_=st.sampled_from(FLOATS),
    function=st.sampled_from(Function),
    gated=st.booleans(),
    biased=st.booleans(),
    added=st.booleans(),
    private=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_products_equal_their_formula(
    library: Library,
    tokens: int,
    inputs: int,
    half: int,
    format_: Format,
    function: Function,
    gated: bool,
    biased: bool,
    added: bool,
    private: bool,
) -> None:
    product = Product(
        library=library,
        weight=weights(2 * half, inputs, format_),
        bias=random(2 * half, seed=2) if biased else None,
        format=format_,
        function=function,
        gated=gated,
        private=private,
    )
    rows = random(tokens, inputs)
    to = random(tokens, half if gated else 2 * half, seed=3) if added else None
    close(product(rows, to=to), product.oracle(rows, to), LIMITS[format_])


@pytest.mark.parametrize("format_", FLOATS)
@pytest.mark.parametrize("outputs", [2, 62, 64, 66, 96])
def test_halves_that_adapters_change_lie_apart(library: Library, format_: Format, outputs: int) -> None:
    product = Product(
        library=library,
        weight=weights(outputs, 40, format_),
        bias=random(outputs, seed=2),
        format=format_,
        gated=True,
        apart=True,
    )
    rows = random(9, 40)
    close(product(rows), product.oracle(rows), LIMITS[format_])


@pytest.mark.parametrize("format_", FLOATS)
@pytest.mark.parametrize("gated", [False, True])
def test_an_operand_holds_what_would_have_been_written(
    library: Library, format_: Format, gated: bool
) -> None:
    product = Product(
        library=library, weight=weights(70, 40, format_), format=format_, function=Function.SILU, gated=gated
    )
    rows = random(9, 40)
    assert torch.equal(product(rows, operand=Format.FLOAT32), product(rows))
    assert torch.equal(product(rows, operand=Format.BFLOAT16), product(rows).bfloat16().float())


@pytest.mark.parametrize("tokens", [1, 9, 129])
@pytest.mark.parametrize("outputs", [70, 96])
def test_an_operand_of_bytes_holds_what_would_have_been_written(
    library: Library, tokens: int, outputs: int
) -> None:
    product = Product(
        library=library,
        weight=weights(outputs, 40, Format.FLOAT32),
        format=Format.INT8,
        function=Function.GELU,
    )
    rows = random(tokens, 40) * torch.logspace(-3, 3, tokens)[:, None]
    _, expected = normalise(library, product(rows), Norm(), operand=Format.INT8)
    assert expected is not None
    assert torch.equal(product(rows, operand=Format.INT8), expected)


@pytest.mark.parametrize("tokens", [1, 5, 70, 129])
def test_products_of_bytes_equal_those_of_what_bytes_stand_for(library: Library, tokens: int) -> None:
    weight, rows = weights(96, 128, Format.FLOAT32), random(tokens, 128)
    product = Product(library=library, weight=weight, format=Format.INT8)
    matrix = Matrix(library, weight, None, Format.Q8_0, operand=Format.INT8)
    close(product(rows), rounded_to_bytes(rows) @ matrix.rows(torch.arange(96)).double().T, 1e-5)


@pytest.mark.parametrize("format_", [Format.FLOAT32, Format.BFLOAT16, Format.INT8])
@pytest.mark.parametrize("gated", [False, True])
def test_a_row_has_the_same_bits_alone_and_in_any_company(
    library: Library, format_: Format, gated: bool, threads: list[int]
) -> None:
    weight = weights(352, 192, Format.FLOAT32)
    product = Product(
        library=library,
        weight=weight,
        bias=random(352, seed=2),
        format=format_,
        function=Function.GELU,
        gated=gated,
    )
    rows = random(300, 192)
    expected = product(rows)
    for number in threads:
        library.start(library.name, number)
        for count in COUNTS if number == 2 else (1, 3, 4, 5, 8, 70, 129, 300):
            assert torch.equal(product(rows[-count:]), expected[-count:]), (number, count)


@pytest.mark.parametrize("format_", FLOATS)
def test_rows_of_a_packed_matrix_are_what_was_packed(library: Library, format_: Format) -> None:
    weight = weights(71, 45, format_)
    indices = torch.tensor([0, 70, 31, 32, 5, 5])
    assert torch.equal(Matrix(library, weight, None, format_).rows(indices), weight[indices])

"""Activations equal torch's within rounding, and have the same bits wherever a row lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.config import Activation
from models.layers.activation import FUNCTIONS

TORCHS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.GELU: functional.gelu,
    Activation.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
    Activation.GELU_SIGMOID: lambda x: x * (1.702 * x).sigmoid(),
    Activation.SILU: functional.silu,
    Activation.RELU: functional.relu,
    Activation.RELU_SQUARED: lambda x: functional.relu(x) ** 2,
    Activation.TANH: torch.tanh,
}


@pytest.fixture
def five_threads() -> Iterator[None]:
    """Shares of five end within a vector; shares of two seldom do."""
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("width", [40, 1536])
@pytest.mark.usefixtures("five_threads")
def test_a_row_has_the_same_bits_alone_and_among_others(
    activation: Activation, dtype: torch.dtype, width: int
) -> None:
    torch.manual_seed(0)
    rows = torch.randn(129, 2 * width).to(dtype).chunk(2, dim=-1)[0]  # a view, as a gate is
    alone = torch.cat([FUNCTIONS[activation](row[None]) for row in rows])
    assert torch.equal(FUNCTIONS[activation](rows), alone)


@pytest.mark.parametrize("activation", Activation)
def test_values_and_slopes_are_those_of_torch(activation: Activation) -> None:
    ours, torchs = (torch.linspace(-80, 80, 4001, requires_grad=True) for _ in range(2))
    computed, expected = FUNCTIONS[activation](ours), TORCHS[activation](torchs)
    torch.testing.assert_close(computed, expected, atol=1e-6, rtol=1e-6)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y, x in ((computed, ours), (expected, torchs))]
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-5)

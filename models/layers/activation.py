"""The functions between two linear layers.

SiLU and GELU are put together from `exp`, `tanh` and `erf`, not taken from torch: theirs compute the last few
elements of a thread's share by another routine, with other bits, and where a share ends depends on how many
rows there are. Sums and products are exactly rounded by any routine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from models.config import Activation


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)), element by element, in float32; the dtype stays (Hendrycks, Gimpel 2016, §2)."""
    wide = x.float()
    return (wide / (1 + wide.neg().exp())).to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), element by element, in float32; the dtype stays (Hendrycks, Gimpel 2016, arXiv 1606.08415)."""
    wide = x.float()
    return (wide * 0.5 * (1 + (wide * math.sqrt(0.5)).erf())).to(x.dtype)


def gelu_tanh(x: Tensor) -> Tensor:
    """`gelu` with Φ approximated by tanh, as GPT-2 was trained (the same paper, §2)."""
    wide = x.float()
    bent = (wide + wide * wide * wide * 0.044715) * math.sqrt(2 / math.pi)
    return (wide * 0.5 * (1 + bent.tanh())).to(x.dtype)


def gelu_sigmoid(x: Tensor) -> Tensor:
    """`gelu` with Φ approximated by a logistic function: x sigmoid(1.702 x) (the same paper, §2).

    sigmoid(y) is (1 + tanh(y/2)) / 2.
    """
    wide = x.float()
    return (wide * 0.5 * (1 + (wide * 0.851).tanh())).to(x.dtype)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)², element by element (So et al. 2021, arXiv 2109.08668)."""
    return F.relu(x).square()


def tanh(x: Tensor) -> Tensor:
    """Element by element, in float32; the dtype stays."""
    return x.float().tanh().to(x.dtype)


FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.GELU: gelu,
    Activation.GELU_TANH: gelu_tanh,
    Activation.GELU_SIGMOID: gelu_sigmoid,
    Activation.SILU: silu,
    Activation.RELU: F.relu,
    Activation.RELU_SQUARED: relu_squared,
    Activation.TANH: tanh,
}

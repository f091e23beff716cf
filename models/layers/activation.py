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


FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.GELU: gelu,
    Activation.GELU_TANH: gelu_tanh,
    Activation.SILU: silu,
    Activation.RELU: F.relu,
}

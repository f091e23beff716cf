"""Positions as sines and cosines (Vaswani et al. 2017, §3.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.positions import Sinusoidal


class SinusoidalEmbedding(nn.Module):
    """positions [T] -> [T, size] float32: sines in the first half, cosines in the second."""

    rates: Tensor

    def __init__(self, sinusoidal: Sinusoidal, size: int) -> None:
        """ValueError where `size` is odd."""
        super().__init__()
        if size % 2:
            raise ValueError(f"sines and cosines cannot share {size} elements evenly")
        self._offset = sinusoidal.offset
        self.register_buffer("rates", _rates(sinusoidal, size // 2), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        angles = (positions + self._offset)[:, None] * self.rates
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _rates(sinusoidal: Sinusoidal, count: int) -> Tensor:
    """Radians per token: [count] float32, on the CPU."""
    steps = max(count - 1, 1) if sinusoidal.inclusive else count
    exponents = torch.arange(count, dtype=torch.float64, device="cpu") / steps
    return torch.exp(-math.log(10_000) * exponents).float()

"""Rotary position embedding: position as the angle by which pairs of elements are turned.

Su et al. 2021, arXiv 2104.09864. The inner product of a query at m and a key at n then depends on m - n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import FactorScaling, LinearScaling, Llama3Scaling, Rotary


@dataclass(frozen=True, slots=True)
class Rotation:
    """The angles of one step's tokens, shared by every layer."""

    cos: Tensor  # [T, 1, head_dim] float32
    sin: Tensor  # [T, 1, head_dim] float32, negative in the first half

    def __call__(self, heads: Tensor) -> Tensor:
        """Turn each pair (i, i + head_dim/2) of [T, heads, head_dim], in float32; the dtype stays."""
        first, second = heads.chunk(2, dim=-1)
        turned = heads * self.cos + torch.cat((second, first), dim=-1) * self.sin
        return turned.to(heads.dtype)


class RotaryEmbedding(nn.Module):
    """positions [T] -> `Rotation`. Holds frequencies, not a table of angles: any position costs the same."""

    frequencies: Tensor

    def __init__(self, rotary: Rotary, head_dim: int) -> None:
        super().__init__()
        # Not a parameter, never on the meta device, and never cast: bfloat16 angles are useless.
        self.register_buffer("frequencies", frequencies(rotary, head_dim), persistent=False)

    def forward(self, positions: Tensor) -> Rotation:
        angles = positions[:, None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        return Rotation(torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None])


def frequencies(rotary: Rotary, head_dim: int) -> Tensor:
    """Radians per token of each pair: [head_dim / 2] float32, on the CPU."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    plain = 1.0 / rotary.theta**exponents
    match rotary.scaling:
        case None:
            return plain
        case LinearScaling(factor=factor):
            return plain / factor
        case FactorScaling(factors=factors):
            return plain / torch.tensor(factors, dtype=torch.float32, device="cpu")
        case Llama3Scaling():
            return _scale_by_wavelength(plain, rotary.scaling)


def _scale_by_wavelength(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    turns = scaling.original_context * plain / (2 * math.pi)  # within the context of pre-training
    blend = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    kept = blend.clamp(0, 1)  # 1: a high frequency, as it was; 0: a low one, divided
    return plain * kept + plain / scaling.factor * (1 - kept)

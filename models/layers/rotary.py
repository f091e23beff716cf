"""Rotary position embedding: position as the angle by which pairs of elements are turned.

Su et al. 2021, arXiv 2104.09864. The inner product of a query at m and a key at n then depends on m - n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.positions import (
    DynamicScaling,
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    Rotary,
    Scaling,
    YarnScaling,
)

# Positions of a table of angles: at most 16 MB where heads have 64 elements.
FEWEST_KEPT, MOST_KEPT = 1 << 10, 1 << 15


@dataclass(frozen=True, slots=True)
class Rotation:
    """The angles of one step's tokens, shared by every layer. `size` elements of each head are turned."""

    cos: Tensor  # [T, 1, size] float32
    sin: Tensor  # [T, 1, size] float32, negative in the first half

    def __call__(self, heads: Tensor) -> Tensor:
        """Turn each pair (i, i + size/2) of [T, heads, head_dim], in float32; the rest and the dtype stay."""
        size = self.cos.shape[-1]
        if size == heads.shape[-1]:
            return self._turn(heads)
        turned, kept = heads.split_with_sizes((size, heads.shape[-1] - size), dim=-1)
        return torch.cat((self._turn(turned), kept), dim=-1)

    def _turn(self, heads: Tensor) -> Tensor:
        first, second = heads.chunk(2, dim=-1)
        turned = heads * self.cos + torch.cat((second, first), dim=-1) * self.sin
        return turned.to(heads.dtype)


class RotaryEmbedding(nn.Module):
    """positions [T] -> `Rotation`: computed from frequencies, so that any position costs the same."""

    frequencies: Tensor

    def __init__(self, rotary: Rotary, head_dim: int) -> None:
        super().__init__()
        self._rotary = rotary
        self._size = head_dim if rotary.size is None else rotary.size
        self._magnitude = _magnitude(rotary.scaling)
        # Not a parameter, never on the meta device, and never cast: bfloat16 angles are useless.
        self.register_buffer("frequencies", frequencies(rotary, self._size), persistent=False)
        self._table = torch.empty(2, 0, self._size, device="cpu")

    def forward(self, positions: Tensor) -> Rotation:
        angles = positions[:, None] * self._frequencies_at(positions)
        cos, sin = angles.cos() * self._magnitude, angles.sin() * self._magnitude
        return Rotation(torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None])

    def look_up(self, positions: Tensor) -> Tensor:
        """The same numbers, cosines and sines of positions [T], on the CPU -> [2, T, size].

        From a table that grows with the texts, where they are not very long: between two steps, with nothing
        of it in the processor's caches, computing them takes five times as long.
        """
        last = int(positions.max())
        if last >= MOST_KEPT:
            return self._compute(positions)
        if last >= self._table.shape[1]:
            self._table = self._compute(torch.arange(max(FEWEST_KEPT, 1 << last.bit_length())))
        return self._table.index_select(1, positions)

    def _compute(self, positions: Tensor) -> Tensor:
        rotation = self(positions)
        return torch.stack((rotation.cos, rotation.sin))[:, :, 0]

    def _frequencies_at(self, positions: Tensor) -> Tensor:
        """[size / 2], or [T, size / 2] where they depend on the position."""
        scaling = self._rotary.scaling
        if not isinstance(scaling, DynamicScaling):
            return self.frequencies
        return _grown(self._rotary.theta, scaling, self._size, positions)


def frequencies(rotary: Rotary, size: int) -> Tensor:
    """Radians per token of each pair: [size / 2] float32, on the CPU."""
    plain = 1.0 / rotary.theta ** _exponents(size, torch.device("cpu"))
    match rotary.scaling:
        case None | DynamicScaling():
            return plain
        case LinearScaling(factor=factor):
            return plain / factor
        case FactorScaling(factors=factors):
            return plain / torch.tensor(factors, dtype=torch.float32, device="cpu")
        case Llama3Scaling():
            return _scale_by_wavelength(plain, rotary.scaling)
        case YarnScaling():
            return _scale_by_pair(plain, rotary.scaling, rotary.theta)


def _exponents(size: int, device: torch.device) -> Tensor:
    return torch.arange(0, size, 2, dtype=torch.float32, device=device) / size


def _magnitude(scaling: Scaling | None) -> float:
    return scaling.magnitude if isinstance(scaling, YarnScaling | FactorScaling) else 1.0


def _grown(theta: float, scaling: DynamicScaling, size: int, positions: Tensor) -> Tensor:
    """The base of a text of n tokens is theta * (factor * n / original - factor + 1)^(size / (size - 2))."""
    tokens = (positions + 1).clamp(min=scaling.original_context).double()
    growth = scaling.factor * tokens / scaling.original_context - (scaling.factor - 1)
    base = (theta * growth ** (size / (size - 2))).float()
    return 1.0 / base[:, None] ** _exponents(size, positions.device)


def _scale_by_wavelength(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    turns = scaling.original_context * plain / (2 * math.pi)  # within the context of pre-training
    blend = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    kept = blend.clamp(0, 1)  # 1: a high frequency, as it was; 0: a low one, divided
    return plain * kept + plain / scaling.factor * (1 - kept)


def _scale_by_pair(plain: Tensor, scaling: YarnScaling, theta: float) -> Tensor:
    """Peng et al. 2023, §3.2; the ramp runs over the pairs' numbers, as in the authors' code."""
    size = 2 * len(plain)

    def pair(turns: float) -> float:  # the number of the pair that turns so often within the context
        return size * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.fast_turns), pair(scaling.slow_turns)
    if scaling.whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    ramp = (torch.arange(len(plain), device="cpu") - first) / (last - first or 0.001)
    divided = ramp.clamp(0, 1)
    return plain * (1 - divided) + plain / scaling.factor * divided

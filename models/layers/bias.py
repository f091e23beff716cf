"""Numbers added to the scores of attention, for each head and distance, in place of positions."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from models.positions import Alibi, Relative


class ScoreBias(Protocol):
    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions [..., Q] and [..., K] -> what is added to the scores: [..., heads, Q, K] float32."""
        ...


class AlibiBias:
    """Minus the distance, times each head's slope: Press et al. 2021, arXiv 2108.12409, §3."""

    def __init__(self, alibi: Alibi, heads: int) -> None:
        self.slopes = alibi_slopes(heads) * alibi.scale

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        distances = (keys[..., None, :] - queries[..., :, None]).float()
        return self.slopes.to(distances.device)[:, None, None] * distances[..., None, :, :]


class RoundedAlibiBias:
    """The same from products that are rounded to bfloat16, as Falcon was trained."""

    def __init__(self, alibi: Alibi, heads: int) -> None:
        self.slopes = alibi_slopes(heads).bfloat16()
        self.scale = alibi.scale

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        heights = self._heights(keys)[..., None, :] - self._heights(queries)[..., :, None]
        return heights * self.scale

    def _heights(self, positions: Tensor) -> Tensor:
        """[..., P] -> [..., heads, P] float32"""
        rounded = self.slopes.to(positions.device)[:, None] * positions[..., None, :].bfloat16()
        return rounded.float()


def build_alibi(alibi: Alibi, heads: int) -> ScoreBias:
    """What `alibi` adds to the scores of each of `heads`."""
    return (RoundedAlibiBias if alibi.rounded else AlibiBias)(alibi, heads)


def alibi_slopes(heads: int) -> Tensor:
    """A geometric series down to 2^-8 for a power of two; else every other one of the next is put behind it.

    -> [heads] float32, on the CPU. As the authors' code has it.
    """
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / whole) for i in range(whole)]
    slopes += [2.0 ** (-4.0 * (i + 1) / whole) for i in range(0, 2 * (heads - whole), 2)]
    return torch.tensor(slopes, device="cpu")


class RelativeBias(nn.Module):
    """A learned number for each head and bucket of distances: Raffel et al. 2019, arXiv 1910.10683, §2.1."""

    def __init__(self, relative: Relative, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(relative.buckets, heads)
        self.relative = relative
        self._causal = causal

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        buckets = bucket(keys[..., None, :] - queries[..., :, None], self.relative, causal=self._causal)
        return self.table(buckets).float().movedim(-1, -3)


def bucket(distances: Tensor, relative: Relative, *, causal: bool) -> Tensor:
    """Key position minus query position -> a bucket's number; int64, of any shape.

    `causal`: all that lies ahead is in bucket 0. Otherwise the upper half of the buckets is for it.
    """
    buckets = relative.buckets
    if causal:
        ahead, steps = torch.zeros_like(distances), (-distances).clamp(min=0)
    else:
        buckets //= 2
        ahead, steps = (distances > 0) * buckets, distances.abs()
    single = buckets // 2
    growth = (steps.float() / single).log() / math.log(relative.max_distance / single)
    wide = single + (growth.clamp(min=0) * (buckets - single)).long()
    return ahead + torch.where(steps < single, steps, wide.clamp(max=buckets - 1))

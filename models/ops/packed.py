"""Bidirectional attention over texts that lie end to end, none seeing another.

The linear layers of an encoder need no padding; attention needs rectangles. Texts are gathered into a few
of them, each padded to a length that follows from the text alone, never from its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.bias import ScoreBias

_STEP = 32  # texts are padded to a multiple of this


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the tokens of a kind of layers see of their text, and how scores are made.

    `window`: how far to either side; None: everything. `bias` is added to the scores.
    """

    scale: float
    window: int | None = None
    bias: ScoreBias | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Texts of about one length, as rows of indices into the packed tokens."""

    gather: Tensor  # [texts * padded] the token that fills each place; padding repeats the text's last
    real: Tensor  # [texts, padded] bool: True where a token of the text is

    @property
    def padded(self) -> int:
        """The length that its texts are padded to."""
        return self.real.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How a batch of texts lies in its packed tokens. Built once, shared by every layer."""

    positions: Tensor  # [T] 0, 1, 2 … within each text
    rectangles: tuple[Rectangle, ...]
    restore: Tensor  # [T] where each packed token lies in the rectangles, laid end to end

    @classmethod
    def build(cls, lengths: Sequence[int], device: torch.device) -> Packing:
        """Plan attention for texts of `lengths` tokens each. ValueError where one is not positive."""
        positions = places(lengths, device)
        size = torch.tensor(lengths)
        start = size.cumsum(0) - size
        restore = torch.empty(len(positions), dtype=torch.int64)
        rectangles, used = [], 0
        for padded, texts in _by_padded_length(lengths).items():
            place = torch.arange(padded)
            real = place < size[texts, None]  # [texts, padded]
            gather = start[texts, None] + torch.minimum(place, size[texts, None] - 1)
            restore[gather[real]] = real.flatten().nonzero().squeeze(1) + used
            used += real.numel()
            rectangles.append(Rectangle(gather=gather.flatten().to(device), real=real.to(device)))
        return cls(positions=positions, rectangles=tuple(rectangles), restore=restore.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPlan:
    """Who sees whom in the layers of one kind."""

    packing: Packing
    scale: float
    masks: tuple[Tensor, ...]  # of each rectangle, as `_mask` makes them


def places(lengths: Sequence[int], device: torch.device) -> Tensor:
    """[T] 0, 1, 2 … within each of the texts, laid end to end. ValueError where a length is not positive."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"every text needs at least one token; lengths are {list(lengths)}")
    return torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])).to(device)


def plan(packing: Packing, sight: Sight) -> PackedPlan:
    """Work out once what all layers with this sight share."""
    masks = tuple(_mask(rectangle.real, sight) for rectangle in packing.rectangles)
    return PackedPlan(packing=packing, scale=sight.scale, masks=masks)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: PackedPlan,
    content: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Softmax(Q K^T * scale) V within each text (Vaswani et al. 2017, eq. 1).

    All of [T, heads, head_dim], the result too. Differentiable. `content` says what is added to the scores
    on account of queries and keys [texts, heads, padded, head_dim]: [texts, heads, padded, padded] float32.
    """

    def attend_rectangle(rectangle: Rectangle, mask: Tensor) -> Tensor:  # [texts * padded, heads, head_dim]
        def lay_out(packed: Tensor) -> Tensor:  # [texts, heads, padded, head_dim]
            rows = packed.index_select(0, rectangle.gather)
            return rows.view(*rectangle.real.shape, *rows.shape[1:]).transpose(1, 2)

        queries, keys = lay_out(query), lay_out(key)
        if content is not None:
            mask = content(queries, keys).masked_fill(~mask, float("-inf"))
        attended = F.scaled_dot_product_attention(
            queries, keys, lay_out(value), attn_mask=mask, scale=plan.scale
        )
        return attended.transpose(1, 2).flatten(0, 1)

    parts = map(attend_rectangle, plan.packing.rectangles, plan.masks)
    return torch.cat(list(parts)).index_select(0, plan.packing.restore)


def _mask(real: Tensor, sight: Sight) -> Tensor:
    """real [texts, padded] -> [texts, 1 or heads, 1 or padded, padded]: True where a key is seen.

    With a bias float32, to be added to scores: minus infinity where not. Passed even where nothing is padded:
    without a mask another kernel would run, with other bits. What stands in for padding sees the whole text,
    since a query that saw nothing would have no number as its result, nor as its gradient.
    """
    seen = real[:, None, None]
    place = torch.arange(real.shape[1], device=real.device)
    if sight.window is not None:
        near = (place - place[:, None]).abs() <= sight.window
        seen = seen & (near | ~real[:, None, :, None])
    if sight.bias is None:
        return seen
    return torch.where(seen, sight.bias(place, place), float("-inf"))


def _by_padded_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Indices of texts, by the length that each is padded to."""
    texts: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        texts[-(-length // _STEP) * _STEP].append(index)
    return texts

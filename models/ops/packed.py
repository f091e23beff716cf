"""Bidirectional attention over texts that lie end to end, none seeing another.

The linear layers of an encoder need no padding; attention needs rectangles. Texts are gathered into a few
of them, each padded to a length that follows from the text alone, never from its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_STEP = 32  # texts are padded to a multiple of this


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Texts of about one length, as rows of indices into the packed tokens."""

    gather: Tensor  # [texts * padded] the token that fills each place; padding repeats the text's last
    shape: tuple[int, int]  # texts, padded length
    mask: Tensor  # [texts, 1, 1, padded] bool: True where a key is a token of the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How a batch of texts lies in its packed tokens. Built once, shared by every layer."""

    positions: Tensor  # [T] 0, 1, 2 … within each text
    rectangles: tuple[Rectangle, ...]
    restore: Tensor  # [T] where each packed token lies in the rectangles, laid end to end

    @classmethod
    def build(cls, lengths: Sequence[int], device: torch.device) -> Packing:
        """Plan attention for texts of `lengths` tokens each. ValueError where one is not positive."""
        if not lengths or min(lengths) < 1:
            raise ValueError(f"every text needs at least one token; lengths are {list(lengths)}")
        size = torch.tensor(lengths)
        start = size.cumsum(0) - size
        positions = torch.arange(int(size.sum())) - start.repeat_interleave(size)
        restore = torch.empty_like(positions)
        rectangles, used = [], 0
        for padded, texts in _by_padded_length(lengths).items():
            place = torch.arange(padded)
            real = place < size[texts, None]  # [texts, padded]
            gather = start[texts, None] + torch.minimum(place, size[texts, None] - 1)
            restore[gather[real]] = real.flatten().nonzero().squeeze(1) + used
            used += real.numel()
            rectangles.append(
                Rectangle(
                    gather=gather.flatten().to(device),
                    shape=(len(texts), padded),
                    mask=real[:, None, None].to(device),
                )
            )
        return cls(positions=positions.to(device), rectangles=tuple(rectangles), restore=restore.to(device))


def attend(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Softmax(Q K^T / sqrt(head_dim)) V within each text (Vaswani et al. 2017, eq. 1).

    All of [T, heads, head_dim], the result too. Differentiable.
    """
    parts = [_attend_rectangle(query, key, value, rectangle) for rectangle in packing.rectangles]
    return torch.cat(parts).index_select(0, packing.restore)


def _attend_rectangle(query: Tensor, key: Tensor, value: Tensor, rectangle: Rectangle) -> Tensor:
    """-> [texts * padded, heads, head_dim]"""

    def lay_out(packed: Tensor) -> Tensor:  # [texts, heads, padded, head_dim]
        rows = packed.index_select(0, rectangle.gather)
        return rows.view(*rectangle.shape, *rows.shape[1:]).transpose(1, 2)

    # The mask is passed even where nothing is padded: without it another kernel would run, with other bits.
    attended = F.scaled_dot_product_attention(
        lay_out(query), lay_out(key), lay_out(value), attn_mask=rectangle.mask
    )
    return attended.transpose(1, 2).flatten(0, 1)


def _by_padded_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Indices of texts, by the length that each is padded to."""
    texts: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        texts[-(-length // _STEP) * _STEP].append(index)
    return texts

"""Attention over the paged cache in plain torch: the reference for faster kernels, and their fallback.

On a CPU it is batch-invariant, in float32 and bfloat16: a token's result has the same bits alone, in a batch,
generated one by one or recomputed in chunks. What that takes is said where it is done; the tests hold it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.bias import ScoreBias
from models.ops.paging import Paging, Sources, Tiles

# Under torch's fused attention, oneDNN (bfloat16) and MKL (float32) take another kernel for three query rows
# or fewer, with sums in another order, and may leave any remainder of a tile to it. Multiples of four never
# meet it.
_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the queries of a kind of layers see of the texts before them, and how scores are made.

    `window`: how many tokens, the query's own included; None: all. `bias` is added to scores. `cap` bends
    scores s to cap * tanh(s / cap), before the bias: Gemma 2 (arXiv 2408.00118, §2).
    """

    scale: float
    window: int | None = None
    bias: ScoreBias | None = None
    cap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """What tiles of one shape take from the stream and from the cache, in every layer alike."""

    tokens: Tensor  # [tiles * count]
    blocks: Tensor  # [tiles * kv_heads * blocks] rows of the cache, seen as [num_blocks * kv_heads, …]
    keys: Tensor  # [tiles, kv_heads, context, head_dim] where every layer gathers its keys in turn:
    values: Tensor  # fresh memory for each would cost four times the gathering itself, in page faults


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """What every layer of one kind needs for tiles of one shape."""

    gathering: Gathering
    mask: Tensor  # [tiles, 1 or kv_heads, rows, context] added to scores: minus infinity where unseen


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """Who attends to what, worked out for the shape of one model. Built once a step, shared by its layers."""

    sight: Sight
    tiles: tuple[TilePlan, ...]
    restore: Tensor  # [T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of one layer's attention: `heads` queries share `kv_heads` keys of `head_dim` elements."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype


def plan(pages: Paging | Sources, shape: Shape, sights: Sequence[Sight]) -> tuple[AttentionPlan, ...]:
    """A plan for each of `sights`. They differ in their masks only, and share the rest.

    Held until the step ends are masks of one element for each query head and key that meet (query heads that
    share a key head have rows of their own; with a bias in float32), and memory for the keys and values of
    one layer, as many as the largest group of tiles sees.
    """
    gatherings = _gatherings(pages, shape)
    return tuple(
        AttentionPlan(
            sight=sight,
            tiles=tuple(
                TilePlan(gathering=gathering, mask=_mask(group, pages.block_size, shape, sight))
                for gathering, group in zip(gatherings, pages.groups, strict=True)
            ),
            restore=pages.restore,
        )
        for sight in sights
    )


def places(blocks: Tensor, offsets: Tensor, block_size: int, kv_heads: int) -> Tensor:
    """Where tokens with these blocks [T] and places within them [T] lie: [T * kv_heads] rows of a layer's
    cache, seen as [num_blocks * kv_heads * block_size, head_dim]."""
    rows = blocks[:, None] * kv_heads + torch.arange(kv_heads, device=blocks.device)
    return (rows * block_size + offsets[:, None]).flatten()


def write(cache: Tensor, rows: Tensor, new: Tensor) -> None:
    """Keys or values `new` [T, kv_heads, head_dim] to `rows` (see `places`) of one layer's cache
    [num_blocks, kv_heads, block_size, head_dim]."""
    cache.view(-1, cache.shape[-1]).index_copy_(0, rows, new.flatten(0, 1))


def attend(query: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend to what the cache of one layer, [num_blocks, kv_heads, block_size, head_dim], has of each text.

    Softmax(Q K^T * scale) V (Vaswani et al. 2017, eq. 1), query heads sharing key heads in groups.
    query [T, heads, head_dim] -> [T, heads, head_dim]
    """
    parts = [_attend_tiles(query, keys, values, tiles, plan.sight) for tiles in plan.tiles]
    return torch.cat(parts).index_select(0, plan.restore)


def _gatherings(pages: Paging | Sources, shape: Shape) -> list[Gathering]:
    """For each group of tiles. They are attended to one after the other, and so share their memory."""
    device = pages.restore.device
    heads = torch.arange(shape.kv_heads, device=device)
    contexts = [group.tables.shape[1] * pages.block_size for group in pages.groups]
    places = [
        (len(group.tables), shape.kv_heads, context, shape.head_dim)
        for group, context in zip(pages.groups, contexts, strict=True)
    ]
    largest = max(map(math.prod, places))
    keys, values = (torch.empty(largest, dtype=shape.dtype, device=device) for _ in range(2))
    return [
        Gathering(
            tokens=group.tokens.flatten(),
            blocks=(group.tables[:, None] * shape.kv_heads + heads[:, None]).flatten(),
            keys=keys[: math.prod(place)].view(place),
            values=values[: math.prod(place)].view(place),
        )
        for group, place in zip(pages.groups, places, strict=True)
    ]


def _attend_tiles(query: Tensor, keys: Tensor, values: Tensor, plan: TilePlan, sight: Sight) -> Tensor:
    """-> [tiles * count, heads, head_dim]

    Query heads that share a key head are rows of one small matrix: keys are read once for all of them.
    """
    taken, heads = plan.gathering, query.shape[1]
    tiles, kv_heads, _, size = taken.keys.shape
    queries = query.index_select(0, taken.tokens).view(tiles, -1, kv_heads, heads // kv_heads, size)
    folded = queries.transpose(1, 2).reshape(tiles, kv_heads, -1, size)
    real = folded.shape[2]
    attended = _attend_rows(
        F.pad(folded, (0, 0, 0, plan.mask.shape[2] - real)),
        _gather(keys, taken.blocks, taken.keys),
        _gather(values, taken.blocks, taken.values),
        plan.mask,
        sight,
    )
    unfolded = attended[:, :, :real].view(tiles, kv_heads, -1, heads // kv_heads, size)
    return unfolded.transpose(1, 2).reshape(-1, heads, size)


def _attend_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sight: Sight) -> Tensor:
    """query [tiles, kv_heads, rows, size], key and value [tiles, kv_heads, context, size] -> as query."""
    if sight.cap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=sight.scale)
    scores = (query @ key.transpose(-1, -2)).float() * sight.scale
    scores = (scores / sight.cap).tanh() * sight.cap + mask
    return scores.softmax(dim=-1).to(value.dtype) @ value


def _gather(cache: Tensor, rows: Tensor, place: Tensor) -> Tensor:
    """One layer's keys or values of every tile, written to `place` [tiles, kv_heads, context, head_dim]."""
    blocks = place.view(-1, *cache.shape[2:])
    torch.index_select(cache.flatten(0, 1), 0, rows, out=blocks)
    return place


def _mask(group: Tiles, block_size: int, shape: Shape, sight: Sight) -> Tensor:
    """[tiles, 1 or kv_heads, rows, context], rows padded to fours.

    Passed even where all is seen: without one, another kernel would run. Padding sees the first token;
    nobody reads its result. With a bias it is float32: distances have more digits than bfloat16.
    """
    context = torch.arange(group.tables.shape[1] * block_size, device=group.tables.device)
    seen = group.sees(context)  # [tiles, count, context]
    if sight.window is not None:
        seen &= context > group.positions[..., None] - sight.window
    queries = shape.heads // shape.kv_heads
    missing = -seen.shape[1] * queries % _ROWS
    if sight.bias is None:
        zeros = torch.zeros(seen.shape, dtype=shape.dtype, device=seen.device)
        plain = zeros.masked_fill_(~seen, float("-inf"))
        return _pad(plain.repeat_interleave(queries, dim=1)[:, None], missing)
    biased = sight.bias(group.positions, context).masked_fill(~seen[:, None], float("-inf"))
    grouped = biased.view(len(seen), shape.kv_heads, queries, *seen.shape[1:]).transpose(2, 3)
    return _pad(grouped.flatten(2, 3), missing)


def _pad(mask: Tensor, missing: int) -> Tensor:
    """`missing` more rows that see the first key only."""
    if not missing:
        return mask
    padding = mask.new_full((*mask.shape[:2], missing, mask.shape[3]), float("-inf"))
    padding[..., 0] = 0
    return torch.cat((mask, padding), dim=2)

"""Attention over the paged cache in plain torch: the reference for faster kernels, and their fallback.

On a CPU it is batch-invariant, in float32 and bfloat16: a token's result has the same bits alone, in a batch,
generated one by one or recomputed in chunks. What that takes is said where it is done; the tests hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.paging import Paging, Tiles

# Under torch's fused attention, oneDNN (bfloat16) and MKL (float32) take another kernel for three query rows
# or fewer, with sums in another order, and may leave any remainder of a tile to it. Multiples of four never
# meet it.
_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """What every layer needs for tiles of one shape."""

    tokens: Tensor  # [tiles * count]
    gather: Tensor  # [tiles * kv_heads * blocks] rows of the cache, seen as [num_blocks * kv_heads, …]
    mask: Tensor  # [tiles, 1, rows, context] added to scores: 0, or minus infinity where a key is not seen
    keys: Tensor  # [tiles, kv_heads, context, head_dim] where every layer gathers its keys in turn:
    values: Tensor  # fresh memory for each would cost four times the gathering itself, in page faults


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """A `Paging`, worked out for the shape of one model. Built once a step, shared by its layers."""

    slots: Tensor  # [T * kv_heads] rows of the cache, seen as [num_blocks * kv_heads * block_size, head_dim]
    tiles: tuple[TilePlan, ...]
    restore: Tensor  # [T]

    @classmethod
    def build(
        cls,
        paging: Paging,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int | None,
        dtype: torch.dtype,
    ) -> AttentionPlan:
        """`window`: how many tokens a query sees, itself included; None: all before it."""
        heads_of = torch.arange(kv_heads, device=paging.blocks.device)
        rows = paging.blocks[:, None] * kv_heads + heads_of
        slots = rows * paging.block_size + paging.offsets[:, None]
        tiles = []
        for group in paging.groups:
            count, blocks = group.tables.shape
            shape = (count, kv_heads, blocks * paging.block_size, head_dim)
            plan = TilePlan(
                tokens=group.tokens.flatten(),
                gather=(group.tables[:, None] * kv_heads + heads_of[:, None]).flatten(),
                mask=_mask(group, heads // kv_heads, paging.block_size, window, dtype),
                keys=torch.empty(shape, dtype=dtype, device=rows.device),
                values=torch.empty(shape, dtype=dtype, device=rows.device),
            )
            tiles.append(plan)
        return cls(slots=slots.flatten(), tiles=tuple(tiles), restore=paging.restore)


def attend(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan
) -> Tensor:
    """Write this step's keys and values to the cache, then attend causally over each sequence's own.

    Softmax(Q K^T / sqrt(head_dim)) V (Vaswani et al. 2017, eq. 1), query heads sharing key heads in groups.

    query [T, heads, head_dim]; key, value [T, kv_heads, head_dim]; keys, values, the cache of one layer:
    [num_blocks, kv_heads, block_size, head_dim]. -> [T, heads, head_dim]
    """
    keys.view(-1, keys.shape[-1]).index_copy_(0, plan.slots, key.flatten(0, 1))
    values.view(-1, values.shape[-1]).index_copy_(0, plan.slots, value.flatten(0, 1))
    parts = [_attend_tiles(query, keys, values, tiles) for tiles in plan.tiles]
    return torch.cat(parts).index_select(0, plan.restore)


def _attend_tiles(query: Tensor, keys: Tensor, values: Tensor, plan: TilePlan) -> Tensor:
    """-> [tiles * count, heads, head_dim]

    Query heads that share a key head are rows of one small matrix: keys are read once for all of them.
    """
    heads = query.shape[1]
    tiles, kv_heads, _, size = plan.keys.shape
    taken = query.index_select(0, plan.tokens).view(tiles, -1, kv_heads, heads // kv_heads, size)
    folded = taken.transpose(1, 2).reshape(tiles, kv_heads, -1, size)
    real = folded.shape[2]
    attended = F.scaled_dot_product_attention(
        F.pad(folded, (0, 0, 0, plan.mask.shape[2] - real)),
        _gather(keys, plan.gather, plan.keys),
        _gather(values, plan.gather, plan.values),
        attn_mask=plan.mask,
    )
    unfolded = attended[:, :, :real].view(tiles, kv_heads, -1, heads // kv_heads, size)
    return unfolded.transpose(1, 2).reshape(-1, heads, size)


def _gather(cache: Tensor, rows: Tensor, place: Tensor) -> Tensor:
    """One layer's keys or values of every tile, written to `place` [tiles, kv_heads, context, head_dim]."""
    blocks = place.view(-1, *cache.shape[2:])
    torch.index_select(cache.flatten(0, 1), 0, rows, out=blocks)
    return place


def _mask(
    group: Tiles, queries_per_key: int, block_size: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """[tiles, 1, rows, context]. Passed even where all is seen: without one, another kernel would run."""
    context = torch.arange(group.tables.shape[1] * block_size, device=group.tables.device)
    rows = group.positions.repeat_interleave(queries_per_key, dim=1)
    rows = F.pad(rows, (0, -rows.shape[1] % _ROWS))  # padding sees the first token; nobody reads its result
    seen = context <= rows[..., None]
    if window is not None:
        seen &= context > rows[..., None] - window
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))[:, None]

"""Where a step's tokens lie: which cache slots they write, which blocks they read, who attends with whom.

A step is a ragged batch of slices, laid end to end without padding. A slice is `count` consecutive tokens of
one sequence, from `start` on: one token of a sequence that is being generated, many of a prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Queries that attend together. Later queries see more context; cutting a long prompt into tiles saves the
# part of the square that is masked anyway.
_TILE = 128

# Contexts are padded to one of these, then to multiples of the last, which is where torch's fused attention
# on a CPU splits them. Padded so, a query's sums are cut at the same places whatever is computed beside it.
# Found by trying: with 224, 256 or 320 oneDNN cuts elsewhere, and some rows differ in a last bit.
_CONTEXTS = (32, 64, 128, 192, 384, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Tiles of one shape: as many queries each, their contexts padded to as many blocks."""

    tokens: Tensor  # [tiles, count] indices into the step's tokens
    positions: Tensor  # [tiles, count] their places in their sequences
    tables: Tensor  # [tiles, blocks] blocks of the context, in order; padded by repeating the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """Built once a step, read by every layer."""

    block_size: int
    blocks: Tensor  # [T] the block that each token's key and value are written to
    offsets: Tensor  # [T] and the place within it
    groups: tuple[Tiles, ...]
    restore: Tensor  # [T] where each token lies in the groups, laid end to end

    @classmethod
    def build(
        cls,
        tables: Sequence[Sequence[int]],
        starts: Sequence[int],
        counts: Sequence[int],
        block_size: int,
        device: torch.device,
    ) -> Paging:
        """Slice i computes `counts[i]` tokens, from `starts[i]` on, of the sequence in blocks `tables[i]`.

        Keys and values of its earlier tokens must be in the cache already. ValueError where a table is too
        short for its slice, or a slice is empty.
        """
        _check(tables, starts, counts, block_size)
        groups = _cut(tables, starts, counts, block_size)
        built = tuple(_build_tiles(tiles, tables, blocks, device) for (_, blocks), tiles in groups.items())
        order = torch.cat([group.tokens.flatten() for group in built])
        restore = torch.empty_like(order)
        restore[order] = torch.arange(len(order), device=device)
        places = [
            (table[position // block_size], position % block_size)
            for table, start, count in zip(tables, starts, counts, strict=True)
            for position in range(start, start + count)
        ]
        written = torch.tensor(places, device=device)
        return cls(
            block_size=block_size,
            blocks=written[:, 0],
            offsets=written[:, 1],
            groups=built,
            restore=restore,
        )


@dataclass(frozen=True, slots=True)
class _Tile:
    sequence: int  # index of its slice
    first: int  # index of its first query among the step's tokens
    position: int  # of that query in its sequence
    count: int


def _cut(
    tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int], block_size: int
) -> dict[tuple[int, int], list[_Tile]]:
    """Cut slices into tiles, by (queries, padded blocks of context)."""
    groups: dict[tuple[int, int], list[_Tile]] = defaultdict(list)
    first = 0
    for sequence, (start, count) in enumerate(zip(starts, counts, strict=True)):
        for skipped in range(0, count, _TILE):
            queries = min(_TILE, count - skipped)
            blocks = _padded_blocks(start + skipped + queries, block_size)
            groups[queries, blocks].append(_Tile(sequence, first + skipped, start + skipped, queries))
        first += count
    return groups


def _padded_blocks(context: int, block_size: int) -> int:
    longest = _CONTEXTS[-1]
    padded = next((size for size in _CONTEXTS if context <= size), -(-context // longest) * longest)
    return -(-padded // block_size)


def _build_tiles(
    tiles: Sequence[_Tile], tables: Sequence[Sequence[int]], blocks: int, device: torch.device
) -> Tiles:
    first = torch.tensor([tile.first for tile in tiles], device=device)
    position = torch.tensor([tile.position for tile in tiles], device=device)
    steps = torch.arange(tiles[0].count, device=device)
    rows = [_pad(tables[tile.sequence], blocks) for tile in tiles]
    return Tiles(
        tokens=first[:, None] + steps,
        positions=position[:, None] + steps,
        tables=torch.tensor(rows, device=device),
    )


def _pad(table: Sequence[int], blocks: int) -> list[int]:
    """Exactly `blocks` entries. Padding stays within the sequence: nobody else's block is ever read."""
    return [*table[:blocks], *[table[-1]] * (blocks - len(table))]


def _check(
    tables: Sequence[Sequence[int]], starts: Sequence[int], counts: Sequence[int], block_size: int
) -> None:
    if not counts or min(counts) < 1:
        raise ValueError(f"every slice needs at least one token; counts are {list(counts)}")
    for table, start, count in zip(tables, starts, counts, strict=True):
        if len(table) * block_size < start + count:
            raise ValueError(f"{len(table)} blocks of {block_size} do not hold {start + count} tokens")

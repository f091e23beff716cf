"""Where a step's tokens lie: which cache slots they write, which blocks they read, who attends with whom.

A step is a ragged batch of slices, laid end to end without padding. A slice is `count` consecutive tokens of
one sequence, from `start` on: one token of a sequence that is being generated, many of a prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

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
    last: Tensor  # [tiles, count] the last key that each of them may see
    tables: Tensor  # [tiles, blocks] blocks of the context, in order; padded by repeating the last

    def sees(self, context: Tensor) -> Tensor:
        """Keys at the places `context` [K] -> [tiles, count, K] bool."""
        return context <= self.last[..., None]


class _Pages:
    """Slices of sequences: `counts[i]` queries, which see keys in the blocks `tables[i]`.

    What torch's attention needs beside these lists is made when it is asked for; kernels read the lists.
    """

    def __init__(
        self, tables: Sequence[Sequence[int]], counts: Sequence[int], block_size: int, device: torch.device
    ) -> None:
        self.tables = tables
        self.counts = counts
        self.block_size = block_size
        self.device = device

    @cached_property
    def groups(self) -> tuple[Tiles, ...]:
        return _group(self._tiles(), self.tables, self.block_size, self.device)

    @cached_property
    def restore(self) -> Tensor:
        """[T] where each token lies in the groups, laid end to end."""
        return _restore(self.groups)

    def _tiles(self) -> list[_Tile]:
        raise NotImplementedError


class Paging(_Pages):
    """How a decoder's own tokens lie. Built once a step, read by every layer."""

    def __init__(
        self,
        tables: Sequence[Sequence[int]],
        starts: Sequence[int],
        counts: Sequence[int],
        block_size: int,
        device: torch.device,
    ) -> None:
        """Slice i computes `counts[i]` tokens, from `starts[i]` on, of the sequence in blocks `tables[i]`.

        Keys and values of its earlier tokens must be in the cache already. ValueError where a table is too
        short for its slice, or a slice is empty.
        """
        super().__init__(tables, counts, block_size, device)
        self.starts = starts
        self.ends = [start + count for start, count in zip(starts, counts, strict=True)]
        _check(tables, self.ends, counts, block_size)

    @property
    def blocks(self) -> Tensor:
        """[T] the block that each token's key and value are written to."""
        return self._written[0]

    @property
    def offsets(self) -> Tensor:
        """[T] the place within it."""
        return self._written[1]

    @cached_property
    def _written(self) -> tuple[Tensor, Tensor]:
        return _places(self.tables, self.starts, self.ends, self.block_size, self.device)

    def _tiles(self) -> list[_Tile]:
        return [
            _Tile(piece.sequence, piece.first, self.starts[piece.sequence] + piece.skipped, piece.count, None)
            for piece in _cut(self.counts)
        ]


class Sources(_Pages):
    """Where the queries of a step find what an encoder said of their sources: all of them see all of it."""

    def __init__(
        self,
        tables: Sequence[Sequence[int]],
        lengths: Sequence[int],
        counts: Sequence[int],
        block_size: int,
        device: torch.device,
    ) -> None:
        """Slice i's `counts[i]` queries see the `lengths[i]` tokens in blocks `tables[i]`.

        ValueError where a table is too short for its source, or a slice or source is empty.
        """
        super().__init__(tables, counts, block_size, device)
        self.lengths = lengths
        _check(tables, lengths, counts, block_size)

    def _tiles(self) -> list[_Tile]:
        return [
            _Tile(piece.sequence, piece.first, piece.skipped, piece.count, self.lengths[piece.sequence])
            for piece in _cut(self.counts)
        ]


class Written:
    """Where the keys and values of whole texts go that are computed at once: an encoder's, for a decoder."""

    def __init__(
        self,
        tables: Sequence[Sequence[int]],
        lengths: Sequence[int],
        block_size: int,
        device: torch.device,
    ) -> None:
        """Text i's `lengths[i]` tokens go to blocks `tables[i]`. ValueError where these are too few."""
        self.tables = tables
        self.lengths = lengths
        self.block_size = block_size
        self.device = device
        _check(tables, lengths, lengths, block_size)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """[T] the block that each token's key and value are written to, and [T] the place within it."""
        starts = [0] * len(self.lengths)
        return _places(self.tables, starts, self.lengths, self.block_size, self.device)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some of a slice's queries."""

    sequence: int  # index of the slice
    first: int  # index of its first query among the step's tokens
    skipped: int  # queries of the slice before it
    count: int


@dataclass(frozen=True, slots=True)
class _Tile:
    sequence: int
    first: int
    position: int  # of the first query in its sequence
    count: int
    seen: int | None  # how many keys each query sees; None: those up to its own

    def padded_blocks(self, block_size: int) -> int:
        context = self.position + self.count if self.seen is None else self.seen
        longest = _CONTEXTS[-1]
        padded = next((size for size in _CONTEXTS if context <= size), -(-context // longest) * longest)
        return -(-padded // block_size)


def _cut(counts: Sequence[int]) -> Iterator[_Piece]:
    first = 0
    for sequence, count in enumerate(counts):
        for skipped in range(0, count, _TILE):
            yield _Piece(sequence, first + skipped, skipped, min(_TILE, count - skipped))
        first += count


def _group(
    tiles: Sequence[_Tile], tables: Sequence[Sequence[int]], block_size: int, device: torch.device
) -> tuple[Tiles, ...]:
    """Tiles with as many queries and as many blocks of context, once padded, are computed together."""
    groups: dict[tuple[int, int], list[_Tile]] = defaultdict(list)
    for tile in tiles:
        groups[tile.count, tile.padded_blocks(block_size)].append(tile)
    return tuple(_build_tiles(alike, tables, blocks, device) for (_, blocks), alike in groups.items())


def _build_tiles(
    tiles: Sequence[_Tile], tables: Sequence[Sequence[int]], blocks: int, device: torch.device
) -> Tiles:
    first = torch.tensor([tile.first for tile in tiles], device=device)
    position = torch.tensor([tile.position for tile in tiles], device=device)
    steps = torch.arange(tiles[0].count, device=device)
    positions = position[:, None] + steps
    rows = [_pad(tables[tile.sequence], blocks) for tile in tiles]
    return Tiles(
        tokens=first[:, None] + steps,
        positions=positions,
        last=positions if tiles[0].seen is None else _ends(tiles, device).expand_as(positions),
        tables=torch.tensor(rows, device=device),
    )


def _ends(tiles: Sequence[_Tile], device: torch.device) -> Tensor:
    """[tiles, 1]"""
    return torch.tensor([tile.seen - 1 for tile in tiles if tile.seen is not None], device=device)[:, None]


def _restore(groups: Sequence[Tiles]) -> Tensor:
    order = torch.cat([group.tokens.flatten() for group in groups])
    restore = torch.empty_like(order)
    restore[order] = torch.arange(len(order), device=order.device)
    return restore


def _places(
    tables: Sequence[Sequence[int]],
    starts: Sequence[int],
    ends: Sequence[int],
    block_size: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The block of each token, and its place within it."""
    places = [
        (table[position // block_size], position % block_size)
        for table, start, end in zip(tables, starts, ends, strict=True)
        for position in range(start, end)
    ]
    written = torch.tensor(places, device=device)
    return written[:, 0], written[:, 1]


def _pad(table: Sequence[int], blocks: int) -> list[int]:
    """Exactly `blocks` entries. Padding stays within the sequence: nobody else's block is ever read."""
    return [*table[:blocks], *[table[-1]] * (blocks - len(table))]


def _check(
    tables: Sequence[Sequence[int]], ends: Sequence[int], counts: Sequence[int], block_size: int
) -> None:
    if not counts or min(counts) < 1 or min(ends) < 1:
        raise ValueError(f"every slice needs at least one token; counts are {list(counts)}")
    for table, end in zip(tables, ends, strict=True):
        if len(table) * block_size < end:
            raise ValueError(f"{len(table)} blocks of {block_size} do not hold {end} tokens")

"""Drives an encoder-decoder as the server does: a paged cache, blocks out of order, any cut into steps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from models.kv_cache import KVCache
from models.ops.paging import Paging, Sources
from models.seq2seq import Seq2Seq
from tests.models.paged import CPU


class Session:
    """Answers of one model, their sources and the blocks of both, which are dealt in a shuffled order."""

    def __init__(
        self,
        model: Seq2Seq,
        *,
        dtype: torch.dtype = torch.float32,
        block_size: int = 16,
        num_blocks: int = 256,
    ) -> None:
        self._model = model
        self._block_size = block_size
        self._cache = KVCache(
            model.config.decoder,
            num_blocks=num_blocks,
            block_size=block_size,
            device=CPU,
            dtype=dtype,
            for_kernels=model.decoder.program is not None,
        )
        self._free = random.Random(0).sample(range(num_blocks), num_blocks)
        self._tables: dict[str, list[int]] = {}
        self._computed: dict[str, int] = {}
        self._sources: dict[str, tuple[list[int], int]] = {}  # blocks and length

    @torch.inference_mode()
    def encode(self, sources: Mapping[str, Sequence[int]]) -> None:
        """Encode the sources of the named answers in one batch."""
        tables = [self._take(len(source)) for source in sources.values()]
        lengths = [len(source) for source in sources.values()]
        tokens = torch.tensor([token for source in sources.values() for token in source])
        self._model.encode(tokens, lengths, tables, self._cache)
        self._sources.update(zip(sources, zip(tables, lengths, strict=True), strict=True))

    @torch.inference_mode()
    def step(self, slices: Iterable[tuple[str, Sequence[int]]]) -> list[Tensor]:
        """Compute the next tokens of each named answer. -> logits of them all: [count, vocab] each."""
        pieces = [(name, list(tokens)) for name, tokens in slices]
        starts = [self._computed.get(name, 0) for name, _ in pieces]
        counts = [len(tokens) for _, tokens in pieces]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        tables = [self._grow(name, end) for (name, _), end in zip(pieces, ends, strict=True)]
        memories, lengths = zip(*(self._sources[name] for name, _ in pieces), strict=True)
        hidden = self._model(
            torch.tensor([token for _, tokens in pieces for token in tokens]),
            torch.cat([torch.arange(start, end) for start, end in zip(starts, ends, strict=True)]),
            Paging(tables, starts, counts, self._block_size, CPU),
            self._cache,
            Sources(memories, lengths, counts, self._block_size, CPU),
        )
        return list(self._model.logits(hidden).split_with_sizes(counts))

    def greedy(self, name: str, prompt: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens, each the likeliest."""
        (logits,) = self.step([(name, prompt)])
        chosen = [int(logits[-1].argmax())]
        while len(chosen) < count:
            (logits,) = self.step([(name, chosen[-1:])])
            chosen.append(int(logits[-1].argmax()))
        return chosen

    def _grow(self, name: str, tokens: int) -> list[int]:
        table = self._tables.setdefault(name, [])
        missing = tokens - len(table) * self._block_size
        table += self._take(missing) if missing > 0 else []
        self._computed[name] = tokens
        return table

    def _take(self, tokens: int) -> list[int]:
        return [self._free.pop() for _ in range(-(-tokens // self._block_size))]

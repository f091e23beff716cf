"""Drives a decoder as the server does: a paged cache, blocks out of order, any cut into steps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import Decoder
from models.kv_cache import KVCache
from models.layers.lora import Mixing
from models.ops.paging import Paging

CPU = torch.device("cpu")


class Session:
    """Sequences of one decoder and their blocks, which are dealt in a shuffled order."""

    def __init__(
        self,
        decoder: Decoder,
        config: DecoderConfig,
        *,
        dtype: torch.dtype = torch.float32,
        block_size: int = 16,
        num_blocks: int = 256,
        loras: Mapping[str, str] | None = None,
    ) -> None:
        """`loras`: the adapters that sequences run with, by the sequences' names."""
        self._decoder = decoder
        self._block_size = block_size
        self._cache = KVCache(
            config,
            num_blocks=num_blocks,
            block_size=block_size,
            device=CPU,
            dtype=dtype,
            for_kernels=decoder.program is not None,
        )
        self._free = random.Random(0).sample(range(num_blocks), num_blocks)
        self._tables: dict[str, list[int]] = {}
        self._computed: dict[str, int] = {}
        self._loras = loras or {}

    @torch.inference_mode()
    def step(self, slices: Iterable[tuple[str, Sequence[int]]]) -> list[Tensor]:
        """Compute the next tokens of each named sequence. -> logits of them all: [count, vocab] each."""
        pieces = [(name, list(tokens)) for name, tokens in slices]
        starts = [self._computed.get(name, 0) for name, _ in pieces]
        counts = [len(tokens) for _, tokens in pieces]
        tables = [
            self._grow(name, start + count)
            for (name, _), start, count in zip(pieces, starts, counts, strict=True)
        ]
        positions = [
            place
            for start, count in zip(starts, counts, strict=True)
            for place in range(start, start + count)
        ]
        mixing = Mixing.of([(self._loras.get(name), len(tokens)) for name, tokens in pieces], CPU)
        hidden = self._decoder(
            torch.tensor([token for _, tokens in pieces for token in tokens]),
            torch.tensor(positions),
            Paging(tables, starts, counts, self._block_size, CPU),
            self._cache,
            mixing,
        )
        return list(self._decoder.logits(hidden, mixing).split_with_sizes(counts))

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
        while len(table) * self._block_size < tokens:
            table.append(self._free.pop())
        self._computed[name] = tokens
        return table

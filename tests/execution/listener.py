"""The smallest encoder-decoder: a decoder whose states are moved by the sum of its source's embeddings.

What it heard is in the cache's blocks alone: a runner that mixes up tables, lengths or queries is found out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.decoder import Decoder
from models.kv_cache import KVCache
from models.ops.paging import Paging, Sources


class Listener:
    """Around a decoder whose hidden size is twice that of its keys, all heads together."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.encoded = list[int]()  # how many sources each pass of the encoder had

    def encode(
        self, tokens: Tensor, lengths: Sequence[int], tables: Sequence[Sequence[int]], cache: KVCache
    ) -> None:
        self.encoded.append(len(lengths))
        values = cache.values[0]
        words = self._decoder.embeddings.words.weight[tokens].chunk(2, dim=-1)[0]
        first = 0
        for length, table in zip(lengths, tables, strict=True):
            for place in range(length):
                word = words[first + place].view(values.shape[1], values.shape[3])
                values[table[place // cache.block_size], :, place % cache.block_size] = word
            first += length
        assert first == len(tokens)

    def __call__(
        self, tokens: Tensor, positions: Tensor, paging: Paging, cache: KVCache, sources: Sources
    ) -> Tensor:
        hidden: Tensor = self._decoder(tokens, positions, paging, cache)
        for group in sources.groups:
            pages = cache.values[0][group.tables].transpose(
                2, 3
            )  # [tiles, blocks, block_size, heads, head_dim]
            heard = pages.flatten(3).flatten(1, 2).double()
            seen = group.sees(torch.arange(heard.shape[1])).double()
            moved = (seen @ heard).repeat(1, 1, 2).to(hidden.dtype)
            hidden[group.tokens] = hidden[group.tokens] + moved
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return self._decoder.logits(hidden)

"""A decoder as a program."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor

from models.blocks import Block
from models.decoder import CausalAttention, Decoder
from models.kv_cache import KVCache
from models.layers.lora import Mixing
from models.native.blocks import lower
from models.native.heads import Geometry, bias_heads, norm_heads, plain_heads
from models.native.library import Library
from models.native.lowering import Attention, Lowering
from models.native.program import Slices
from models.native.stack import Stack, turn
from models.native.structures import Format, Run
from models.ops.paging import Paging


class DecoderProgram:
    """What a decoder does between embeddings and logits."""

    def __init__(self, library: Library, decoder: Decoder, format_: Format, cache: Format) -> None:
        """Raises Unsupported where there is no operation for a part of it."""
        config = decoder.config
        self._decoder = decoder
        self._shape = Geometry(
            heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, format=cache
        )
        self._stack = Stack(library, config.hidden_size, format_, cache, self._write)

    def __call__(
        self, hidden: Tensor, positions: Tensor, paging: Paging, cache: KVCache, mixing: Mixing | None = None
    ) -> Tensor:
        """hidden [T, hidden], what the embeddings say -> [T, hidden] float32, ready for `logits`.

        ValueError where the cache is not laid out for the kernels.
        """
        return self._compute(Run(tokens=len(hidden)), hidden, positions, paging, cache, mixing)

    def _compute(
        self,
        run: Run,
        hidden: Tensor,
        positions: Tensor,
        paging: Paging,
        cache: KVCache,
        mixing: Mixing | None,
    ) -> Tensor:
        """A run in which everything else is filled in already."""
        self._open(run, cache)
        slices = Slices.of(paging.tables, paging.starts, paging.counts, paging.ends, paging.block_size)
        slices.fill(run.views[0])
        rotations = turn(run, self._decoder.sights.rotaries, positions)
        result = self._stack.run(hidden, run, mixing)
        del slices, rotations  # not before: the run holds their addresses
        return result

    def _open(self, run: Run, cache: KVCache) -> None:
        if not cache.for_kernels:
            raise ValueError("the cache is not laid out for the kernels (`for_kernels`)")
        run.keys, run.values = (each.ctypes.data for each in cache.addresses)

    def _write(self, lowering: Lowering) -> None:
        for layer, block in enumerate(self._decoder.blocks):
            attention = self.attention(layer, cast(CausalAttention, block.attention))
            lower(cast(Block, block), attention, lowering)
        if self._decoder.norm is not None:
            lowering.finish(self._decoder.norm)

    def attention(self, layer: int, attention: CausalAttention) -> Attention:
        """That of one layer: what it sees of its own text."""
        config, sights = self._decoder.config, self._decoder.sights
        local = config.local is not None and layer in config.local.layers
        heads = plain_heads(self._shape, scale=sights.scale, causal=True)
        heads.clip = math.inf if config.clip is None else config.clip
        heads.cap = math.inf if config.score_cap is None else config.score_cap
        heads.window = config.local.window if config.local is not None and local else 0
        kept = norm_heads(heads, attention.query_norm, attention.key_norm) + bias_heads(
            heads, sights.score_bias
        )
        rotation = len(sights.rotaries) - 1 if local else 0
        if sights.rotaries and layer not in config.unplaced:
            heads.rotated = config.rotaries[rotation].size or config.head_dim
        return Attention(
            projection=attention.qkv,
            out=attention.out,
            heads=heads,
            layer=layer,
            rotation=rotation,
            kept=kept,
        )

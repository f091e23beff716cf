"""The decoder of an encoder-decoder as programs: one that answers, one that remembers sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor

from models.decoder import CausalAttention
from models.kv_cache import KVCache
from models.layers.lora import Mixing
from models.native.blocks import lower_cross
from models.native.decoder import DecoderProgram
from models.native.heads import plain_heads
from models.native.library import Library
from models.native.lowering import Attention, Lowering
from models.native.program import Slices
from models.native.stack import Stack
from models.native.structures import Format, Parts, Run
from models.ops.paging import Paging, Sources, Written
from models.seq2seq import CrossBlock, CrossDecoder

SOURCES = 1  # the view of a run by which its queries see their sources


class CrossDecoderProgram(DecoderProgram):
    """As `DecoderProgram`, with attention to the source in every block."""

    def __init__(self, library: Library, decoder: CrossDecoder, format_: Format, cache: Format) -> None:
        """Raises Unsupported where there is no operation for a part of it."""
        super().__init__(library, decoder, format_, cache)
        self._memory = Stack(library, decoder.config.hidden_size, format_, cache, self._write_memory)

    def answer(
        self,
        hidden: Tensor,
        positions: Tensor,
        paging: Paging,
        cache: KVCache,
        sources: Sources,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """hidden [T, hidden], what the embeddings say -> [T, hidden] float32, ready for `logits`.

        ValueError where the cache is not laid out for the kernels.
        """
        starts = [0] * len(sources.counts)
        slices = Slices.of(sources.tables, starts, sources.counts, sources.lengths, sources.block_size)
        run = Run(tokens=len(hidden))
        slices.fill(run.views[SOURCES])
        return self._compute(run, hidden, positions, paging, cache, mixing)

    def remember(self, encoded: Tensor, written: Written, cache: KVCache) -> None:
        """Write each layer's keys and values of encoded sources [S, hidden] to the cache.

        ValueError where it is not laid out for the kernels. `encoded` stays: this program has no stream.
        """
        starts = [0] * len(written.lengths)
        slices = Slices.of(written.tables, starts, written.lengths, written.lengths, written.block_size)
        run = Run(tokens=len(encoded))
        slices.fill(run.views[SOURCES])
        self._open(run, cache)
        self._memory.run(encoded, run, None)

    def _write(self, lowering: Lowering) -> None:
        for layer, block in self._cross_blocks():
            own = self.attention(layer, cast(CausalAttention, block.attention))
            lower_cross(block, own, self._cross_attention(layer, block, Parts.QUERIES), lowering)
        if self._decoder.norm is not None:
            lowering.finish(self._decoder.norm)

    def _write_memory(self, lowering: Lowering) -> None:
        rows = lowering.read(None, shared=True)
        for layer, block in self._cross_blocks():
            kept = self._cross_attention(layer, block, Parts.KEYS)
            projected = lowering.floats("projected", kept.width)
            lowering.linear(kept.projection, rows, projected, name="kv")
            lowering.heads(kept, projected)

    def _cross_attention(self, layer: int, block: CrossBlock, parts: Parts) -> Attention:
        """The half of it that makes queries and looks, or that which keeps what is looked at."""
        cross = block.cross
        return Attention(
            projection=cross.query if parts is Parts.QUERIES else cross.kv,
            out=cross.out,
            heads=plain_heads(self._shape, scale=self._decoder.sights.scale, causal=False),
            parts=parts,
            layer=layer,
            view=SOURCES,
        )

    def _cross_blocks(self) -> Iterator[tuple[int, CrossBlock]]:
        return enumerate(cast(Sequence[CrossBlock], self._decoder.blocks))

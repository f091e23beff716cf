"""The encoder-decoder of Vaswani et al. 2017 (arXiv 1706.03762), and of T5, BART, Marian and their kin.

A source is encoded once. What the decoder's layers attend to of it, keys and values, is written to blocks of
the paged cache, beside those of the answer; from then on the answer grows as any decoder's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from models.blocks import Block, Context
from models.config import Bias, DecoderConfig, Residual, Seq2SeqConfig
from models.decoder import BlockProgram, CausalAttention, Decoder, LayerContext
from models.encoder import Encoder
from models.kv_cache import KVCache
from models.layers.linear import Linear
from models.layers.lora import Mixing
from models.layers.norm import build_norm
from models.ops.attention import AttentionPlan, Sight, attend, places, plan, write
from models.ops.paging import Paging, Sources, Written


class CrossAttention(nn.Module):
    """The answer attends to its source (Vaswani et al. 2017, §3.2.3): [T, hidden] -> [T, hidden].

    Queries come from the stream, keys and values from the encoder's output, by way of the cache: they stay as
    they are while the answer grows. `kv` stacks the rows of key and value heads, in this order.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        biased = Bias.QKV in config.biases
        inner = config.heads * config.head_dim
        self.query = Linear(config.hidden_size, inner, bias=biased)
        self.kv = Linear(config.hidden_size, 2 * config.kv_heads * config.head_dim, bias=biased)
        self.out = Linear(inner, config.hidden_size, bias=Bias.ATTENTION_OUT in config.biases)
        self._head_dim = config.head_dim

    def remember(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """What an encoder says [S, hidden] -> keys and values, each [S, kv_heads, head_dim]."""
        keys, values = self.kv(encoded).unflatten(-1, (2, -1, self._head_dim)).unbind(1)
        return keys, values

    def forward(self, hidden: Tensor, context: LayerContext) -> Tensor:
        assert context.sources is not None
        query = self.query(hidden, context.mixing).unflatten(-1, (-1, self._head_dim))
        attended = attend(query, context.keys, context.values, context.sources)
        return self.out(attended.flatten(1), context.mixing)


class CrossBlock(Block):
    """A block with a third part, between attention and MLP: attention to the source."""

    def __init__(self, config: DecoderConfig, attention: nn.Module) -> None:
        super().__init__(config, attention)
        self.cross = CrossAttention(config)
        self.cross_norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.mlp_norm = build_norm(config.norm, config.hidden_size, config.norm_eps)


class PreNormCrossBlock(CrossBlock):
    """Each part reads a normalised copy and adds to the stream: T5, mBART, Pegasus."""

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), context)
        hidden = hidden + self.cross(self.cross_norm(hidden), context)
        return hidden + self.mlp(self.mlp_norm(hidden), context.mixing)


class PostNormCrossBlock(CrossBlock):
    """Every sum is normalised: the Transformer of 2017 (§3.1), Marian, BART."""

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = self.attention_norm(hidden + self.attention(hidden, context))
        hidden = self.cross_norm(hidden + self.cross(hidden, context))
        return self.mlp_norm(hidden + self.mlp(hidden, context.mixing))


CROSS_BLOCKS: dict[Residual, type[CrossBlock]] = {
    Residual.PRE: PreNormCrossBlock,
    Residual.POST: PostNormCrossBlock,
}


class CrossProgram(BlockProgram, Protocol):
    """The same of a decoder that attends to a source: `models.native.seq2seq`."""

    def answer(
        self,
        hidden: Tensor,
        positions: Tensor,
        paging: Paging,
        cache: KVCache,
        sources: Sources,
        mixing: Mixing | None,
    ) -> Tensor:
        """What the embeddings say [T, hidden] -> what the last norm does [T, hidden], float32."""
        ...

    def remember(self, encoded: Tensor, written: Written, cache: KVCache) -> None:
        """Write each layer's keys and values of encoded sources [S, hidden] to the cache."""
        ...


class CrossDecoder(Decoder):
    """The decoder's half: that of `models.decoder`, with cross-attention in every block."""

    program: CrossProgram | None

    def answer(
        self,
        tokens: Tensor,
        positions: Tensor,
        paging: Paging,
        cache: KVCache,
        sources: Sources,
        mixing: Mixing | None,
    ) -> Tensor:
        """As `Seq2Seq.forward`."""
        hidden = self.embeddings(tokens, positions)
        if self.program is not None:
            return self.program.answer(hidden, positions, paging, cache, sources, mixing)
        heard = self._hear(sources, hidden.dtype)
        contexts = self.sights.look(positions, paging, cache, hidden.dtype, mixing)
        return self._through(hidden, (replace(context, sources=heard) for context in contexts))

    def remember(self, encoded: Tensor, written: Written, cache: KVCache) -> None:
        """Write each layer's keys and values of encoded sources [S, hidden] to the cache."""
        if self.program is not None:
            self.program.remember(encoded, written, cache)
            return
        rows = places(*written.places, cache.block_size, self.config.kv_heads)
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            key, value = cast(CrossBlock, block).cross.remember(encoded)
            write(keys, rows, key)
            write(values, rows, value)

    def _block(self, config: DecoderConfig) -> Block:
        return CROSS_BLOCKS[config.residual](config, CausalAttention(config))

    def _hear(self, sources: Sources, dtype: torch.dtype) -> AttentionPlan:
        (heard,) = plan(sources, self.sights.shape(dtype), [Sight(scale=self.sights.scale)])
        return heard


class Seq2Seq(nn.Module):
    """An encoder, and a decoder that attends to what it says, over ragged batches."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = CrossDecoder(config.decoder)
        self.encoder = Encoder(config.encoder)
        if config.shared:
            self.encoder.embeddings.words = self.decoder.embeddings.words
        self.logit_bias = nn.Parameter(torch.zeros(1, config.vocab_size)) if config.logit_bias else None

    def encode(
        self, tokens: Tensor, lengths: Sequence[int], tables: Sequence[Sequence[int]], cache: KVCache
    ) -> None:
        """Encode sources of `lengths` tokens each, laid end to end: tokens [S].

        What the decoder attends to of source i is written to the blocks `tables[i]` of the cache. ValueError
        where these are too few, or the lengths do not sum to S.
        """
        written = Written(tables, lengths, cache.block_size, tokens.device)
        self.decoder.remember(self.encoder(tokens, lengths), written, cache)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        paging: Paging,
        cache: KVCache,
        sources: Sources,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """Compute slices of answers laid end to end, and write their keys and values to the cache.

        tokens [T] and their positions [T], in the order of `paging`'s slices and of those of `sources`, which
        says where the encoded source of each lies -> hidden [T, hidden], ready for `logits`. `mixing`: which
        of them run with which adapter.
        """
        return self.decoder.answer(tokens, positions, paging, cache, sources, mixing)

    def logits(self, hidden: Tensor, mixing: Mixing | None = None) -> Tensor:
        """hidden [R, hidden] of the rows that are sampled -> logits [R, vocab], float32.

        `mixing`: which of these rows run with which adapter.
        """
        logits = self.decoder.logits(hidden, mixing)
        return logits if self.logit_bias is None else logits + self.logit_bias.float()

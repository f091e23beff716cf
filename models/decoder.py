"""The decoder of every causal family: GPT-2 and LLaMA with its kin differ in configuration only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import Bias, DecoderConfig, Head, Learned, Mlp
from models.kv_cache import KVCache
from models.layers.embedding import Embedding
from models.layers.linear import Linear, project
from models.layers.mlp import GatedMlp, PlainMlp
from models.layers.norm import build_norm
from models.layers.rotary import RotaryEmbedding, Rotation
from models.ops.attention import AttentionPlan, attend
from models.ops.paging import Paging


class CausalAttention(nn.Module):
    """Grouped-query attention over the paged cache (Ainslie et al. 2023, arXiv 2305.13245).

    [T, hidden] -> [T, hidden]. `qkv` stacks the rows of query, key and value heads, in this order.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        heads = config.heads + 2 * config.kv_heads
        self.qkv = Linear(config.hidden_size, heads * config.head_dim, bias=Bias.QKV in config.biases)
        self.out = Linear(
            config.heads * config.head_dim, config.hidden_size, bias=Bias.ATTENTION_OUT in config.biases
        )
        self.query_norm, self.key_norm = (
            build_norm(config.norm, config.head_dim, config.norm_eps) if config.query_key_norm else None
            for _ in range(2)
        )
        self._split = (config.heads, config.kv_heads, config.kv_heads)
        self._head_dim = config.head_dim

    def forward(
        self, hidden: Tensor, rotation: Rotation | None, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> Tensor:
        qkv = self.qkv(hidden).view(len(hidden), -1, self._head_dim)
        query, key, value = qkv.split_with_sizes(self._split, dim=1)  # each [T, its heads, head_dim]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        return self.out(attend(query, key, value, keys, values, plan).flatten(1))


class DecoderBlock(nn.Module):
    """Pre-norm: each part reads a normalised copy and adds to the stream.

    ::

        x -> norm -> attention -> + x -> norm -> mlp -> + x
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        mlp = GatedMlp if config.mlp is Mlp.GATED else PlainMlp
        self.attention_norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.attention = CausalAttention(config)
        self.mlp_norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.mlp = mlp(config.hidden_size, config.mlp_size, config.activation, bias=Bias.MLP in config.biases)

    def forward(
        self, hidden: Tensor, rotation: Rotation | None, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), rotation, plan, keys, values)
        return hidden + self.mlp(self.mlp_norm(hidden))


class Decoder(nn.Module):
    """A causal language model (Radford et al. 2019; Touvron et al. 2023) over a ragged batch of slices."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.words = Embedding(config.vocab_size, config.hidden_size)
        self.positions, self.rotary = _positions(config)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.head = (
            Linear(config.hidden_size, config.vocab_size, bias=False) if config.head is Head.UNTIED else None
        )

    def forward(self, tokens: Tensor, positions: Tensor, paging: Paging, cache: KVCache) -> Tensor:
        """Compute slices laid end to end, and write their keys and values to the cache.

        tokens [T] and their positions [T], in the order of `paging`'s slices -> hidden [T, hidden], ready
        for `logits`.
        """
        hidden = self.words(tokens)
        if self.positions is not None:
            hidden = hidden + self.positions(positions)
        rotation = None if self.rotary is None else self.rotary(positions)
        plan = self._plan(paging, hidden.dtype)
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            hidden = block(hidden, rotation, plan, keys, values)
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [R, hidden] of the rows that are sampled -> logits [R, vocab], float32."""
        logits = project(hidden, self.words.weight) if self.head is None else self.head(hidden)
        return logits.float()

    def _plan(self, paging: Paging, dtype: torch.dtype) -> AttentionPlan:
        config = self.config
        return AttentionPlan.build(
            paging,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            window=config.window,
            dtype=dtype,
        )


def _positions(config: DecoderConfig) -> tuple[Embedding | None, RotaryEmbedding | None]:
    """How the model knows where a token is: a table of vectors, or an angle."""
    if isinstance(config.positions, Learned):
        return Embedding(config.positions.rows, config.hidden_size), None
    return None, RotaryEmbedding(config.positions, config.head_dim)

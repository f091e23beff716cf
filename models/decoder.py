"""The decoder of every causal family: GPT-2, LLaMA and their kin differ in configuration only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.blocks import BLOCKS, Block
from models.config import Bias, DecoderConfig, Head
from models.kv_cache import KVCache
from models.layers.bias import RelativeBias, ScoreBias, build_alibi
from models.layers.embedding import Embedding, Embeddings
from models.layers.linear import Linear
from models.layers.lora import Mixing
from models.layers.norm import build_norm
from models.layers.query_key_norm import build_query_key_norm
from models.layers.rotary import RotaryEmbedding, Rotation
from models.ops.attention import AttentionPlan, Shape, Sight, attend, places, plan, write
from models.ops.paging import Paging
from models.positions import Alibi, Relative


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContext:
    """What the attention of one layer needs besides the stream."""

    plan: AttentionPlan
    rotation: Rotation | None
    written: Tensor  # [T * kv_heads] where this step's keys and values go: see `ops.attention.places`
    keys: Tensor  # the cache of the layer, [num_blocks, kv_heads, block_size, head_dim]
    values: Tensor
    mixing: Mixing | None = None
    sources: AttentionPlan | None = None  # who attends to what of an encoder's output, where there is one


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
        normed = config.query_key_norm
        self.query_norm = None if normed is None else build_query_key_norm(normed, config, config.heads)
        self.key_norm = None if normed is None else build_query_key_norm(normed, config, config.kv_heads)
        self._split = (config.heads, config.kv_heads, config.kv_heads)
        self._head_dim = config.head_dim
        self._clip = config.clip

    def forward(self, hidden: Tensor, context: LayerContext) -> Tensor:
        qkv = self.qkv(hidden, context.mixing)
        if self._clip is not None:
            qkv = qkv.clamp(-self._clip, self._clip)
        heads = qkv.view(len(hidden), -1, self._head_dim)
        query, key, value = heads.split_with_sizes(self._split, dim=1)  # each [T, its heads, head_dim]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if context.rotation is not None:
            query, key = context.rotation(query), context.rotation(key)
        write(context.keys, context.written, key)
        write(context.values, context.written, value)
        attended = attend(query, context.keys, context.values, context.plan)
        return self.out(attended.flatten(1), context.mixing)


class BlockProgram(Protocol):
    """All blocks of a decoder and its last norm, run at once: `models.native.decoder`."""

    def __call__(
        self, hidden: Tensor, positions: Tensor, paging: Paging, cache: KVCache, mixing: Mixing | None
    ) -> Tensor:
        """What the embeddings say [T, hidden] -> what the last norm does [T, hidden], float32.

        `hidden` may be overwritten.
        """
        ...


class Decoder(nn.Module):
    """A causal language model (Radford et al. 2019; Touvron et al. 2023) over a ragged batch of slices."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, config.positions)
        self.sights = Sights(config)
        self.blocks = nn.ModuleList(self._block(config) for _ in range(config.layers))
        norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.norm = norm if config.final_norm else None
        self.head = LMHead(config)
        # All blocks and the last norm in one, where there are kernels.
        self.program: BlockProgram | None = None

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        paging: Paging,
        cache: KVCache,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """Compute slices laid end to end, and write their keys and values to the cache.

        tokens [T] and their positions [T], in the order of `paging`'s slices -> hidden [T, hidden], ready
        for `logits`. `mixing`: which of them run with which adapter.
        """
        hidden = self.embeddings(tokens, positions)
        if self.program is not None:
            return self.program(hidden, positions, paging, cache, mixing)
        return self._through(hidden, self.sights.look(positions, paging, cache, hidden.dtype, mixing))

    def logits(self, hidden: Tensor, mixing: Mixing | None = None) -> Tensor:
        """hidden [R, hidden] of the rows that are sampled -> logits [R, vocab], float32.

        `mixing`: which of these rows run with which adapter.
        """
        return self.head(hidden, self.embeddings.words, mixing)

    def _through(self, hidden: Tensor, contexts: Iterable[LayerContext]) -> Tensor:
        """All blocks, each with its context, and the last norm: [T, hidden] -> [T, hidden]."""
        for block, context in zip(self.blocks, contexts, strict=True):
            hidden = block(hidden, context)
        return hidden if self.norm is None else self.norm(hidden)

    def _block(self, config: DecoderConfig) -> Block:
        return BLOCKS[config.residual](config, CausalAttention(config))


class Sights(nn.Module):
    """How the layers of a decoder look at what came before: what all see alike, and what local ones see."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.bias = (
            RelativeBias(config.positions, config.heads, causal=True)
            if isinstance(config.positions, Relative)
            else None
        )
        self.rotaries = nn.ModuleList(RotaryEmbedding(one, config.head_dim) for one in config.rotaries)
        self._alibi = (
            build_alibi(config.positions, config.heads) if isinstance(config.positions, Alibi) else None
        )
        self._config = config

    def look(
        self, positions: Tensor, paging: Paging, cache: KVCache, dtype: torch.dtype, mixing: Mixing | None
    ) -> Iterator[LayerContext]:
        """A context for each layer."""
        config = self._config
        plans = plan(paging, self.shape(dtype), self._kinds())
        rotations = [rotary(positions) for rotary in self.rotaries] or [None]
        written = places(paging.blocks, paging.offsets, paging.block_size, config.kv_heads)
        local = config.local.layers if config.local else frozenset()
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            kind = -1 if layer in local else 0
            yield LayerContext(
                plan=plans[kind],
                rotation=None if layer in config.unplaced else rotations[kind],
                written=written,
                keys=keys,
                values=values,
                mixing=mixing,
            )

    def shape(self, dtype: torch.dtype) -> Shape:
        """Of the attention of every layer."""
        config = self._config
        return Shape(heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, dtype=dtype)

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        config = self._config
        return config.head_dim**-0.5 if config.scale is None else config.scale

    @property
    def score_bias(self) -> ScoreBias | None:
        """What is added to scores."""
        return self.bias if self.bias is not None else self._alibi

    def _kinds(self) -> list[Sight]:
        """Of the layers that see everything, then of the local ones, if there are any."""
        config, bias = self._config, self.score_bias
        local = config.local
        windows: list[int | None] = [] if local and len(local.layers) == config.layers else [None]
        windows += [local.window] if local else []
        return [Sight(scale=self.scale, window=each, bias=bias, cap=config.score_cap) for each in windows]


class LMHead(nn.Module):
    """What token comes next: ``cap(scale * (W project(h) + b))``, W being the table of words where tied."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.project = Linear(config.hidden_size, size, bias=False) if config.embedding_size else None
        biased = Bias.HEAD in config.biases
        untied = config.head is Head.UNTIED
        self.linear = Linear(size, config.vocab_size, bias=biased) if untied else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if biased and not untied else None
        self._scale, self._cap = config.logit_scale, config.logit_cap

    def forward(self, hidden: Tensor, words: Embedding, mixing: Mixing | None = None) -> Tensor:
        """hidden [R, hidden], the table of words [vocab, size] -> logits [R, vocab], float32."""
        if self.project is not None:
            hidden = self.project(hidden)
        logits = words.compare(hidden) if self.linear is None else self.linear(hidden, mixing)
        logits = logits.float()
        if self._scale != 1.0:
            logits = logits * self._scale
        if self.bias is not None:
            logits = logits + self.bias.float()
        return logits if self._cap is None else (logits / self._cap).tanh() * self._cap

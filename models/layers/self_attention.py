"""Attention of an encoder: each token over its whole text, or its neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.config import Bias, EncoderConfig
from models.layers.linear import Linear
from models.layers.lora import Mixing
from models.layers.rotary import Rotation
from models.ops.packed import PackedPlan, attend


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """What DeBERTa's layers share about how far apart tokens are."""

    table: Tensor  # [rows, hidden] a vector for each bucket of distances
    rows: tuple[Tensor, ...]  # of each rectangle [padded, padded]: the row for a query and a key


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderContext:
    """What the attention of one layer needs besides the stream."""

    plan: PackedPlan
    rotation: Rotation | None = None
    distances: Distances | None = None
    mixing: Mixing | None = None


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2.2): [T, hidden] -> [T, hidden].

    `qkv` stacks the rows of query, key and value, in this order.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_size
        self.qkv = Linear(config.hidden_size, 3 * inner, bias=Bias.QKV in config.biases)
        self.out = Linear(inner, config.hidden_size, bias=Bias.ATTENTION_OUT in config.biases)
        self._heads = config.heads

    def forward(self, hidden: Tensor, context: EncoderContext) -> Tensor:
        query, key, value = self._project(hidden, context.mixing)
        if context.rotation is not None:
            query, key = context.rotation(query), context.rotation(key)
        return self.out(attend(query, key, value, context.plan).flatten(1), context.mixing)

    def _project(self, hidden: Tensor, mixing: Mixing | None) -> tuple[Tensor, Tensor, Tensor]:
        """[N, hidden] -> query, key, value, each [N, heads, head_dim]."""
        query, key, value = self.qkv(hidden, mixing).unflatten(-1, (3, self._heads, -1)).unbind(1)
        return query, key, value

"""From hidden states to one vector for a text, as sentence encoders are trained (Reimers, Gurevych 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.config import Activation, Pooling
from models.layers.activation import FUNCTIONS
from models.layers.linear import Linear
from models.pooling import pool


class Dense(nn.Module):
    """``act(W x + b)``: vectors [N, in] -> [N, out], in float32."""

    def __init__(self, in_size: int, out_size: int, activation: Activation | None, *, bias: bool) -> None:
        super().__init__()
        self.linear = Linear(in_size, out_size, bias=bias)
        self._activate = None if activation is None else FUNCTIONS[activation]

    def forward(self, vectors: Tensor) -> Tensor:
        projected = self.linear(vectors)
        return projected if self._activate is None else self._activate(projected)


class Sentence(nn.Module):
    """What several kinds of pooling give, side by side, then dense layers.

    `size`: elements of the result; `pooling`: the names of the kinds, with "+" between them. Weights are
    float32 whatever the encoder's are: they are few, and what pooling gives is float32.
    """

    def __init__(self, poolings: Sequence[Pooling], dense: Sequence[Dense], hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList(dense)
        self.pooling = "+".join(pooling.value for pooling in poolings)
        self.size = dense[-1].linear.out_features if dense else hidden_size * len(poolings)
        self._poolings = tuple(poolings)

    def forward(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """hidden [T, hidden] of texts of `lengths` -> [texts, size] float32, not scaled to unit length."""
        pooled = [pool(hidden, lengths, pooling) for pooling in self._poolings]
        vectors = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)
        for layer in self.dense:
            vectors = layer(vectors)
        return vectors

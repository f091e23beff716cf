"""The encoder of every BERT-like family: BERT, RoBERTa, DistilBERT differ in configuration only."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.config import EncoderConfig
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layers.mlp import PlainMlp
from models.ops.packed import Packing, attend
from models.positions import Learned


class Embeddings(nn.Module):
    """Word + position + segment vectors, normalised: tokens [T], positions [T] -> [T, hidden].

    One text is one segment, the first; sentence pairs are not told apart.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.words = Embedding(config.vocab_size, config.hidden_size)
        assert isinstance(config.positions, Learned)
        self.positions = Embedding(config.positions.rows, config.hidden_size)
        self.segments = Embedding(config.segments, config.hidden_size) if config.segments else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self._offset = config.positions.offset

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        hidden = self.words(tokens) + self.positions(positions + self._offset)
        if self.segments is not None:
            hidden = hidden + self.segments.weight[0]
        return self.norm(hidden)


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2.2), each token over its whole text.

    [T, hidden] -> [T, hidden]. `qkv` stacks the rows of query, key and value, in this order.
    """

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)
        self._heads = heads

    def forward(self, hidden: Tensor, packing: Packing) -> Tensor:
        qkv = self.qkv(hidden).unflatten(-1, (3, self._heads, -1))
        query, key, value = qkv.unbind(1)  # each [T, heads, head_dim]
        return self.out(attend(query, key, value, packing).flatten(1))


class EncoderBlock(nn.Module):
    """Post-norm, as in 2017: every sum is normalised.

    ::

        x -> attention -> + x -> norm -> mlp -> + -> norm
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.hidden_size, config.heads)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = PlainMlp(config.hidden_size, config.mlp_size, config.activation, bias=True)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, hidden: Tensor, packing: Packing) -> Tensor:
        hidden = self.attention_norm(hidden + self.attention(hidden, packing))
        return self.mlp_norm(hidden + self.mlp(hidden))


class Encoder(nn.Module):
    """Texts end to end, without padding: only attention needs to know where one ends."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))

    def forward(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """Encode texts of `lengths` tokens each, laid end to end: tokens [T] -> hidden [T, hidden].

        `sum(lengths)` must be T and every length between 1 and the model's context length, or ValueError.
        """
        if sum(lengths) != len(tokens):
            raise ValueError(f"lengths sum to {sum(lengths)}, but there are {len(tokens)} tokens")
        packing = Packing.build(lengths, tokens.device)
        hidden = self.embeddings(tokens, packing.positions)
        for block in self.blocks:
            hidden = block(hidden, packing)
        return hidden

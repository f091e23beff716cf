"""What is put on top of hidden states: words for masked tokens, labels for texts, scores for their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.config import EncoderConfig, EncoderHead, HeadTask, Pooling
from models.encoder import Encoder
from models.layers.activation import FUNCTIONS
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layers.lora import Mixing
from models.layers.norm import build_norm
from models.pooling import pool

if TYPE_CHECKING:
    from models.native.weights import Matrix


class Transformed(nn.Module):
    """What many heads begin with: rows [R, hidden] -> ``norm(act(transform h))`` [R, size].

    Whatever of it the head has: without an activation, rows stay as they are.
    """

    def __init__(self, head: EncoderHead, config: EncoderConfig, size: int) -> None:
        super().__init__()
        activation = head.activation
        bent = activation is not None
        self.transform = Linear(config.hidden_size, size, bias=head.transform_bias) if bent else None
        self.norm = None if head.norm is None else build_norm(head.norm, size, config.norm_eps)
        self._activate = None if activation is None else FUNCTIONS[activation]

    def transformed(self, rows: Tensor, mixing: Mixing | None = None) -> Tensor:
        if self.transform is not None and self._activate is not None:
            rows = self._activate(self.transform(rows, mixing))
        return rows if self.norm is None else self.norm(rows)


class MaskedLMHead(Transformed):
    """Which token belongs at a place (Devlin et al. 2018, §3.1).

    ``logits = E norm(act(transform h)) + bias``, where E are the word embeddings of the encoder, shared.
    """

    def __init__(self, config: EncoderConfig, words: Embedding) -> None:
        head = config.tasks[HeadTask.MASKED_LM]
        super().__init__(head, config, words.embedding_dim)
        self.words = words
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if head.bias else None
        self.matrix: Matrix | None = None  # words and bias for the kernels

    def forward(self, hidden: Tensor, mixing: Mixing | None = None) -> Tensor:
        """hidden [R, hidden] -> logits [R, vocab], float32. `mixing`: which rows run with which adapter."""
        rows = self.transformed(hidden, mixing)
        return self.words.compare(rows, self.bias).float() if self.matrix is None else self.matrix(rows)


class ScoringHead(Transformed):
    """So many scores for each row: ``out(norm(act(transform h)))``."""

    def __init__(self, head: EncoderHead, config: EncoderConfig, scores: int) -> None:
        super().__init__(head, config, config.hidden_size)
        self.out = Linear(config.hidden_size, scores, bias=head.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """rows [R, hidden] -> [R, scores], float32."""
        return self.out(self.transformed(rows)).float()


class MaskedLM(nn.Module):
    """An encoder and its masked-LM head."""

    def __init__(self, encoder: Encoder, head: MaskedLMHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        rows: Tensor,
        segments: Tensor | None = None,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """tokens [T] of texts of `lengths`, packed indices `rows` [R] -> logits [R, vocab], float32.

        `segments` and `mixing` as `Encoder.forward` takes them.
        """
        hidden = self.encoder(tokens, lengths, segments, mixing)
        return self.head(hidden.index_select(0, rows), None if mixing is None else mixing.at(rows))


class TextScores(nn.Module):
    """An encoder and a head that says what a text is (Devlin et al. 2018, §4.1)."""

    def __init__(self, encoder: Encoder, head: ScoringHead, pooling: Pooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self._pooling = pooling

    def forward(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        segments: Tensor | None = None,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """tokens [T] of texts of `lengths` -> logits [texts, labels], float32.

        `segments` and `mixing` as `Encoder.forward` takes them.
        """
        hidden = self.encoder(tokens, lengths, segments, mixing)
        return self.head(pool(hidden, lengths, self._pooling).to(hidden.dtype))


class TokenScores(nn.Module):
    """An encoder and a head that says something of each token.

    A label (Devlin et al. 2018, §5.3); where an answer begins and where it ends (§4.2); whether the token
    has been replaced (ELECTRA: Clark et al. 2020, arXiv 2003.10555, §2).
    """

    def __init__(self, encoder: Encoder, head: ScoringHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        segments: Tensor | None = None,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """tokens [T] of texts of `lengths` -> logits [T, scores], float32.

        `segments` and `mixing` as `Encoder.forward` takes them.
        """
        return self.head(self.encoder(tokens, lengths, segments, mixing))

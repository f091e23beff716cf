"""What is put on top of hidden states: logits of a masked token, one vector for a whole text."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import EncoderConfig
from models.encoder import Encoder
from models.layers.activation import FUNCTIONS
from models.layers.linear import Linear, project


class MaskedLMHead(nn.Module):
    """Which token belongs at a place (Devlin et al. 2018, §3.1).

    ``logits = E norm(act(transform h)) + bias``, where E are the word embeddings of the encoder, shared.
    """

    def __init__(self, config: EncoderConfig, words: nn.Embedding) -> None:
        super().__init__()
        self.transform = Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.words = words
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self._activate = FUNCTIONS[config.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [R, hidden] -> logits [R, vocab], float32."""
        rows = self.norm(self._activate(self.transform(hidden)))
        return project(rows, self.words.weight, self.bias).float()


class Pooling(Enum):
    MEAN = "mean"  # of all tokens: Reimers, Gurevych 2019
    CLS = "cls"  # the first token


def pool(hidden: Tensor, lengths: Sequence[int], pooling: Pooling) -> Tensor:
    """One vector for each text of a packed batch: [T, hidden] -> [texts, hidden], float32.

    `lengths` sum to T, each at least 1. Each text is summed on its own, so neighbours do not matter.
    """
    texts = torch.split(hidden, list(lengths))
    if pooling is Pooling.CLS:
        return torch.stack([text[0].float() for text in texts])
    return torch.stack([text.float().mean(dim=0) for text in texts])


def normalize(vectors: Tensor) -> Tensor:
    """Scale to unit length: [N, hidden] -> [N, hidden]. A zero vector stays zero."""
    return F.normalize(vectors, dim=-1)


class MaskedLM(nn.Module):
    """An encoder and its masked-LM head."""

    def __init__(self, encoder: Encoder, head: MaskedLMHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, tokens: Tensor, lengths: Sequence[int], rows: Tensor) -> Tensor:
        """tokens [T] of texts of `lengths`, packed indices `rows` [R] -> logits [R, vocab], float32."""
        return self.head(self.encoder(tokens, lengths).index_select(0, rows))

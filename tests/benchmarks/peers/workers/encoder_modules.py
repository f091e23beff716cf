"""An encoder as transformers computes it, with what is asked of it on top; for torch and for ONNX."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM


def load_encoder(folder: str, *, full_logits: bool, dtype: torch.dtype) -> nn.Module:
    """(ids, mask) [batch, length] each -> logits [batch, length, vocab], or embeddings [batch, hidden]."""
    if full_logits:
        return Scores(AutoModelForMaskedLM.from_pretrained(folder, dtype=dtype)).eval()
    return Embeddings(AutoModel.from_pretrained(folder, dtype=dtype)).eval()


class Embeddings(nn.Module):
    """The mean over tokens, of unit length (Reimers and Gurevych 2019, arXiv 1908.10084)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)


class Scores(nn.Module):
    """Logits of the whole vocabulary, for every token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        return self.model(input_ids=ids, attention_mask=mask).logits

"""Normalisation over the last dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import Norm


class OffsetRMSNorm(nn.Module):
    """RMSNorm whose scale is 1 + weight, added in float32: [..., size] -> [..., size] (Gemma, 2024)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:
        wide = F.rms_norm(input.float(), input.shape[-1:], 1.0 + self.weight.float(), self.eps)
        return wide.to(input.dtype)


class HeadwiseNorm(nn.Module):
    """Each head normalised by weights of its own: [T, heads, size] -> [T, heads, size] (Cohere, StableLM)."""

    def __init__(self, kind: Norm, heads: int, size: int, eps: float) -> None:
        super().__init__()
        self.norm = build_norm(_WITHOUT_WEIGHTS[kind], size, eps)
        self.weight = nn.Parameter(torch.ones(heads, size))

    def forward(self, input: Tensor) -> Tensor:
        return self.norm(input) * self.weight


# What is left of a norm whose scale is applied by somebody else.
_WITHOUT_WEIGHTS = {Norm.LAYER_SCALED: Norm.LAYER_BARE}


def build_norm(kind: Norm, size: int, eps: float) -> nn.Module:
    """[..., size] -> [..., size]; statistics in float32 whatever the dtype."""
    match kind:
        case Norm.LAYER:
            return nn.LayerNorm(size, eps=eps)
        case Norm.LAYER_SCALED:
            return nn.LayerNorm(size, eps=eps, bias=False)
        case Norm.LAYER_BARE:
            return nn.LayerNorm(size, eps=eps, elementwise_affine=False)
        case Norm.RMS:
            return nn.RMSNorm(size, eps=eps)
        case Norm.RMS_OFFSET:
            return OffsetRMSNorm(size, eps)

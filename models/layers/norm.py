"""Normalisation over the last dimension."""

from __future__ import annotations

from torch import nn

from models.config import Norm


def build_norm(kind: Norm, size: int, eps: float) -> nn.LayerNorm | nn.RMSNorm:
    """[..., size] -> [..., size]; statistics in float32 whatever the dtype."""
    return nn.LayerNorm(size, eps=eps) if kind is Norm.LAYER else nn.RMSNorm(size, eps=eps)

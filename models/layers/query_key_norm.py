"""Queries and keys, normalised before they meet (Henry et al. 2020, arXiv 2010.04245)."""

from __future__ import annotations

from torch import Tensor, nn

from models.config import DecoderConfig, QueryKeyNorm, Span
from models.layers.norm import HeadwiseNorm, build_norm


class AllHeadsNorm(nn.Module):
    """One norm over all heads together: [T, heads, size] -> [T, heads, size] (OLMo 2)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, heads: Tensor) -> Tensor:
        return self.norm(heads.flatten(1)).view_as(heads)


def build_query_key_norm(wanted: QueryKeyNorm, config: DecoderConfig, heads: int) -> nn.Module:
    """For `heads` queries, or keys: [T, heads, head_dim] -> [T, heads, head_dim]."""
    match wanted.span:
        case Span.HEAD:
            return build_norm(wanted.norm, config.head_dim, config.norm_eps)
        case Span.HEADS:
            return HeadwiseNorm(wanted.norm, heads, config.head_dim, config.norm_eps)
        case Span.ALL:
            return AllHeadsNorm(build_norm(wanted.norm, heads * config.head_dim, config.norm_eps))

"""How the heads of a layer are made and what they see, as operations know it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.kv_cache import PIECE
from models.layers.bias import AlibiBias, RelativeBias, RoundedAlibiBias, ScoreBias
from models.native.errors import Unsupported
from models.native.norms import Normed
from models.native.structures import BiasKind, Format, Heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How many heads there are, of which size; `format` of the cache."""

    heads: int
    kv_heads: int
    head_dim: int
    format: Format

    @property
    def padded_dim(self) -> int:
        """Elements of a head in the cache."""
        return -(-self.head_dim // PIECE) * PIECE


def plain_heads(shape: Geometry, *, scale: float, causal: bool) -> Heads:
    """Heads that see everything, behind them at least, and are neither normed nor turned."""
    return Heads(
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        padded_dim=shape.padded_dim,
        format=shape.format,
        clip=math.inf,
        scale=scale,
        cap=math.inf,
        causal=causal,
    )


def norm_heads(heads: Heads, query_norm: nn.Module | None, key_norm: nn.Module | None) -> list[Tensor | None]:
    """Queries and keys are normalised from now on. Returns what must outlive the heads."""
    if query_norm is None or key_norm is None:
        return []
    query = Normed.of_heads(query_norm, heads.heads, heads.head_dim)
    key = Normed.of_heads(key_norm, heads.kv_heads, heads.head_dim)
    heads.norm, heads.norm_eps = query.kind, query.eps
    heads.norm_span = heads.head_dim if query.span == heads.head_dim else 0
    heads.query_norm, heads.query_norm_bias = _address(query.weight), _address(query.bias)
    heads.key_norm, heads.key_norm_bias = _address(key.weight), _address(key.bias)
    return [query.weight, query.bias, key.weight, key.bias]


def bias_heads(heads: Heads, bias: ScoreBias | None) -> list[Tensor]:
    """`bias` is added to scores from now on. Returns what must outlive the heads. Raises Unsupported."""
    match bias:
        case None:
            return []
        case AlibiBias():
            kind, numbers, scale = BiasKind.ALIBI, bias.slopes, 1.0
        case RoundedAlibiBias():
            kind, numbers, scale = BiasKind.ALIBI_ROUNDED, bias.slopes.float(), bias.scale
        case RelativeBias():
            heads.distances = bias.relative.max_distance
            kind, numbers, scale = BiasKind.BY_DISTANCE, _by_distance(bias), 1.0
        case _:
            raise Unsupported(f"the bias {type(bias).__name__}")
    heads.bias, heads.slopes, heads.bias_scale = kind, numbers.data_ptr(), scale
    return [numbers]


def _by_distance(bias: RelativeBias) -> Tensor:
    """[heads, 2 * most + 1] what is added at distances -most .. most; farther is as far."""
    most = bias.relative.max_distance
    with torch.inference_mode():
        return bias(torch.zeros(1, dtype=torch.int64), torch.arange(-most, most + 1))[:, 0].contiguous()


def _address(numbers: Tensor | None) -> int | None:
    return None if numbers is None else numbers.data_ptr()

"""Norms, as operations know them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers.norm import HeadwiseNorm, OffsetRMSNorm
from models.layers.query_key_norm import AllHeadsNorm
from models.native.errors import Unsupported
from models.native.structures import NormKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Normed:
    """A norm over `span` elements, with a weight and a bias for each element of a row, or none."""

    kind: NormKind
    span: int
    eps: float = 0.0
    weight: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def of(cls, norm: nn.Module | None, width: int) -> Normed:
        """Of rows of `width` elements. Raises Unsupported."""
        match norm:
            case None | nn.Identity():
                return cls(kind=NormKind.NONE, span=width)
            case nn.LayerNorm():
                weight, bias = _wide(norm.weight), _wide(norm.bias)
                return cls(kind=NormKind.LAYER, span=width, eps=norm.eps, weight=weight, bias=bias)
            case nn.RMSNorm(eps=float(eps)):
                return cls(kind=NormKind.RMS, span=width, eps=eps, weight=_wide(norm.weight))
            case OffsetRMSNorm():
                return cls(kind=NormKind.RMS, span=width, eps=norm.eps, weight=1.0 + norm.weight.float())
        raise Unsupported(f"the norm {type(norm).__name__}")

    @classmethod
    def of_heads(cls, norm: nn.Module | None, heads: int, size: int) -> Normed:
        """Of queries or keys side by side. Raises Unsupported."""
        if isinstance(norm, AllHeadsNorm):
            return cls.of(norm.norm, heads * size)
        if isinstance(norm, HeadwiseNorm):
            inner = cls.of(norm.norm, size)
            own = norm.weight.float().flatten().contiguous()
            return cls(kind=inner.kind, span=size, eps=inner.eps, weight=own)
        one = cls.of(norm, size)
        weight, bias = (None if each is None else each.repeat(heads) for each in (one.weight, one.bias))
        return cls(kind=one.kind, span=size, eps=one.eps, weight=weight, bias=bias)


def _wide(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().float().contiguous()

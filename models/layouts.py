"""From how a checkpoint stores a tensor to how ours lies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import DecoderConfig, EncoderConfig
from models.families.naming import Layout
from models.positions import Rotary


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """Of attention. `rotary_size`: how many elements of each head are turned."""

    heads: int
    kv_heads: int
    head_dim: int
    rotary_size: int

    @classmethod
    def of(cls, config: DecoderConfig | EncoderConfig) -> HeadShape:
        head_dim = config.head_dim or config.hidden_size // config.heads
        rotary = config.positions if isinstance(config.positions, Rotary) else Rotary()
        return cls(
            heads=config.heads,
            kv_heads=config.kv_heads if isinstance(config, DecoderConfig) else config.heads,
            head_dim=head_dim,
            rotary_size=rotary.size or head_dim,
        )


def lay_out(tensor: Tensor, layout: Layout, shape: HeadShape) -> Tensor:
    """The stored `tensor` as ours: weights [out, in], biases [out]. ValueError where it does not lie so."""
    match layout:
        case Layout.IN_OUT:
            return tensor.t() if tensor.dim() == 2 else tensor
        case Layout.ROTARY_PAIRS:
            return _unpair(tensor, shape)
        case Layout.HEADS_OF_ROTARY_PAIRS:
            return _unpair(tensor.flatten(), shape).view_as(tensor)
        case Layout.GROUPED_QKV:
            return _ungroup(tensor, shape)
        case Layout.ROWS:
            return tensor[None]
        case Layout.OUT_IN:
            return tensor


def _unpair(tensor: Tensor, shape: HeadShape) -> Tensor:
    """The turned rows of each head from (x0, y0, x1, y1, …) to (x0, x1, …, y0, y1, …)."""
    if not tensor.dim() or len(tensor) % shape.head_dim:
        raise ValueError(f"{list(tensor.shape)} is no number of heads of {shape.head_dim}")
    heads = tensor.reshape(-1, shape.head_dim, *tensor.shape[1:]).clone()
    turned = heads[:, : shape.rotary_size]
    pairs = turned.reshape(len(heads), shape.rotary_size // 2, 2, *tensor.shape[1:])
    heads[:, : shape.rotary_size] = pairs.transpose(1, 2).flatten(1, 2).clone()
    return heads.reshape(tensor.shape)


def _ungroup(tensor: Tensor, shape: HeadShape) -> Tensor:
    """Rows from (its queries, key, value) of each key head to all queries, all keys, all values."""
    queries = shape.heads // shape.kv_heads
    if not tensor.dim() or len(tensor) != (shape.heads + 2 * shape.kv_heads) * shape.head_dim:
        kinds = f"{shape.heads} query and {shape.kv_heads} key and value heads of {shape.head_dim}"
        raise ValueError(f"{list(tensor.shape)} does not hold {kinds}")
    groups = tensor.reshape(shape.kv_heads, queries + 2, shape.head_dim, *tensor.shape[1:])
    parts = groups.split_with_sizes((queries, 1, 1), dim=1)
    return torch.cat([part.flatten(0, 2) for part in parts])

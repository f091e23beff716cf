"""Turns quantised blocks into float32.

The three formats that small models come in are done in torch, cut so that a piece stays in the cache: 0.3 s
for all of SmolLM2, where the `gguf` package takes two. That package is the oracle which they must equal bit
for bit, and does the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize
from torch import Tensor

PLAIN = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}
QUANTISED = (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K)

_BLOCKS_AT_ONCE = 16384  # of 32 weights: 2 MB of float32


def dequantise(raw: Tensor, kind: Type) -> Tensor:
    """`raw` is [bytes] uint8 of whole blocks; the result is [weights], float32, or the dtype of a plain type.

    `kind` is one of PLAIN or QUANTISED. A plain type's result is a view of `raw`.
    """
    if kind in PLAIN:
        return raw.view(PLAIN[kind])
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = raw.view(-1, block_bytes)
    weights = torch.empty(len(blocks), block_size)
    fill = _FILLERS.get(kind)
    for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
        piece = slice(start, start + _BLOCKS_AT_ONCE)
        if fill is None:
            weights[piece] = _by_package(blocks[piece], kind)
        else:
            fill(blocks[piece], weights[piece])
    return weights.view(-1)


def _fill_q8_0(blocks: Tensor, weights: Tensor) -> None:
    """`blocks` [n, 34]: scale f16, 32 of int8. Writes `weights` [n, 32]."""
    weights.copy_(blocks[:, 2:].view(torch.int8))
    weights.mul_(_halves(blocks[:, :2]))


def _fill_q4_0(blocks: Tensor, weights: Tensor) -> None:
    """`blocks` [n, 18]: scale f16, 32 of 4 bits offset by 8. Writes `weights` [n, 32]."""
    _fill_nibbles(blocks[:, 2:], weights)
    weights.sub_(8).mul_(_halves(blocks[:, :2]))


def _fill_q4_1(blocks: Tensor, weights: Tensor) -> None:
    """`blocks` [n, 20]: scale f16, minimum f16, 32 of 4 bits. Writes `weights` [n, 32]."""
    scales = _halves(blocks[:, :4])
    _fill_nibbles(blocks[:, 4:], weights)
    weights.mul_(scales[:, :1]).add_(scales[:, 1:])


def _fill_nibbles(packed: Tensor, weights: Tensor) -> None:
    """The low halves of the 16 bytes are the first 16 weights, the high halves the others."""
    weights[:, :16] = packed & 0x0F
    weights[:, 16:] = packed >> 4


def _halves(raw: Tensor) -> Tensor:
    """[n, 2k] bytes as [n, k] float16, widened to float32."""
    return raw.contiguous().view(torch.float16).float()


def _by_package(blocks: Tensor, kind: Type) -> Tensor:
    with np.errstate(all="ignore"):  # scales that are not numbers give weights that are not, as they should
        return torch.from_numpy(dequantize(blocks.numpy(), kind))


_FILLERS: dict[Type, Callable[[Tensor, Tensor], None]] = {
    Type.Q8_0: _fill_q8_0,
    Type.Q4_0: _fill_q4_0,
    Type.Q4_1: _fill_q4_1,
}

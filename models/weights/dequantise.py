"""Turns quantised blocks into numbers.

The three formats that small models come in are written here, cut into pieces that stay in the cache and
shared among threads: 0.3 s for the 135 million weights of SmolLM2 where the `gguf` package takes two. That
package is the oracle which they must equal bit for bit, and does the rest. Each piece is computed in float32
and rounded while it is in the cache: a float32 copy of the whole would cost more than its arithmetic.

NumPy and plain threads, not torch: its OpenMP threads wait for each other after every operation, which on a
machine with other work to do made the same loop take seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize
from torch import Tensor

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PLAIN = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}
QUANTISED = (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K)

_PIECE = 1 << 18  # weights: 1 MB of float32
_THREADS = min(8, os.cpu_count() or 1)  # beyond that, memory is the limit


def dequantise(raw: Tensor, kind: Type, dtype: torch.dtype = torch.float32) -> Tensor:
    """`raw` is [bytes] uint8 of whole blocks; the result is [weights] of `dtype`, or of a plain type's own.

    `kind` is one of PLAIN or QUANTISED. A plain type's result is a view of `raw`.
    """
    if kind in PLAIN:
        return raw.view(PLAIN[kind])
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = raw.numpy().reshape(-1, block_bytes)
    weights = torch.empty(len(blocks), block_size, dtype=dtype)

    def fill(start: int) -> None:
        piece = blocks[start : start + _PIECE // block_size]
        floats = np.empty((len(piece), block_size), np.float32)
        with np.errstate(all="ignore"):  # a scale that is no number gives weights that are none, as it should
            _FILLERS[kind](piece, floats)
        with torch.inference_mode(weights.is_inference()):  # it is each thread's own
            weights[start : start + len(piece)] = torch.from_numpy(floats)

    starts = range(0, len(blocks), _PIECE // block_size)
    if len(starts) == 1:
        fill(0)
    else:
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(fill, starts))
    return weights.view(-1)


def _fill_q8_0(blocks: Bytes, weights: Floats) -> None:
    """`blocks` [n, 34]: scale f16, 32 of int8. Writes `weights` [n, 32]."""
    weights[:] = blocks[:, 2:].view(np.int8)
    weights *= _halves(blocks[:, :2])


def _fill_q4_0(blocks: Bytes, weights: Floats) -> None:
    """`blocks` [n, 18]: scale f16, 32 of 4 bits offset by 8. Writes `weights` [n, 32]."""
    _fill_nibbles(blocks[:, 2:], weights)
    weights -= 8
    weights *= _halves(blocks[:, :2])


def _fill_q4_1(blocks: Bytes, weights: Floats) -> None:
    """`blocks` [n, 20]: scale f16, minimum f16, 32 of 4 bits. Writes `weights` [n, 32]."""
    scales = _halves(blocks[:, :4])
    _fill_nibbles(blocks[:, 4:], weights)
    weights *= scales[:, :1]
    weights += scales[:, 1:]


def _fill_nibbles(packed: Bytes, weights: Floats) -> None:
    """The low halves of the 16 bytes are the first 16 weights, the high halves the others."""
    weights[:, :16] = packed & 0x0F
    weights[:, 16:] = packed >> 4


def _halves(raw: Bytes) -> Floats:
    """[n, 2k] bytes as [n, k] float16, widened to float32."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _filler_of(kind: Type) -> Callable[[Bytes, Floats], None]:
    def fill(blocks: Bytes, weights: Floats) -> None:
        weights[:] = dequantize(blocks, kind)

    return fill


_FILLERS: dict[Type, Callable[[Bytes, Floats], None]] = {
    **{kind: _filler_of(kind) for kind in QUANTISED},
    Type.Q8_0: _fill_q8_0,
    Type.Q4_0: _fill_q4_0,
    Type.Q4_1: _fill_q4_1,
}

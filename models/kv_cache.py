"""The tensors that block numbers stand for: keys and values of every token that was computed.

A block holds `block_size` consecutive tokens of one sequence, for every layer (Kwon et al. 2023,
PagedAttention, arXiv 2309.06180). Who holds which block is the scheduler's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from models.config import DecoderConfig
from models.pages import small_pages

PIECE = 16  # tokens, and elements of a head, that the kernels take at a time


class KVCache:
    """Keys and values by layer, each [num_blocks, kv_heads, block_size, head_dim].

    For the kernels (`for_kernels`) a block is laid out in their way, with heads padded to what they want, and
    only they know what lies where.

    Zeroed, because masked places are still read, and what is not a number stays so even when weighted by 0.
    On a CPU the memory is the system's zero pages, small ones, which take up room only once they are written:
    with large ones a first token clears two megabytes for the keys and for the values of every layer, which
    takes up to 0.4 s, and attention is no faster for it.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        for_kernels: bool = False,
    ) -> None:
        """Allocates `num_blocks * bytes_per_block(...)` bytes. ValueError where a size is not positive, or a
        block not made of what the kernels take at a time."""
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"{num_blocks} blocks of {block_size} tokens: both must be positive")
        if for_kernels and block_size % PIECE:
            raise ValueError(f"blocks of {block_size} tokens: the kernels take {PIECE} at a time")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.for_kernels = for_kernels
        head_dim = _head_dim(config, for_kernels=for_kernels)
        shape = (config.layers, num_blocks, config.kv_heads, block_size, head_dim)
        self.keys = _zeros(shape, device, dtype).unbind()
        self.values = _zeros(shape, device, dtype).unbind()

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the contents of the first block of each pair to its second, in every layer.

        No block is written twice, nor read where another pair writes it: what is copied is what there was.
        """
        if not pairs:
            return
        read, written = torch.tensor(pairs, device=self.keys[0].device).unbind(1)
        for layer in (*self.keys, *self.values):
            layer[written] = layer[read]

    @cached_property
    def addresses(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Where the keys, and the values, of each layer begin in host memory."""
        keys, values = (
            np.array([layer.data_ptr() for layer in layers], np.uint64) for layers in (self.keys, self.values)
        )
        return keys, values

    @staticmethod
    def bytes_per_block(
        config: DecoderConfig, block_size: int, dtype: torch.dtype, *, for_kernels: bool = False
    ) -> int:
        """Bytes that one more block costs, keys and values of all layers together."""
        elements = config.kv_heads * block_size * _head_dim(config, for_kernels=for_kernels)
        return 2 * config.layers * elements * dtype.itemsize


def _head_dim(config: DecoderConfig, *, for_kernels: bool) -> int:
    return -(-config.head_dim // PIECE) * PIECE if for_kernels else config.head_dim


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return torch.frombuffer(small_pages(math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)

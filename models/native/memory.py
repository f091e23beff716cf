"""Memory for matrices and for what large products write: in pages of two megabytes where there are any.

A step reads every matrix once; with smaller pages, looking up where they lie takes a good part of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.native.structures import ALIGNMENT
from models.pages import large_pages

_CHUNK = 32 << 20
_AHEAD = 8192  # bytes that the kernels may fetch behind what they read
_RETURNED = 32 << 20  # bytes from which on an allocator never keeps memory, but asks the system each time


class Arena:
    """Hands out pieces of large chunks. A chunk goes when the last of its pieces does."""

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def allocate(self, size: int) -> Tensor:
        """[size] uint8, zeros, aligned for any vector."""
        if self._used + size + _AHEAD > len(self._chunk):
            memory = large_pages(max(_CHUNK, size + _AHEAD))
            self._chunk, self._used = torch.frombuffer(memory, dtype=torch.uint8), 0
        piece = self._chunk[self._used : self._used + size]
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        return piece


def products(rows: int, width: int) -> Tensor:
    """[rows, width] float32, of which each element is going to be written.

    What the system has just given is cleared at its first use, page by page. In small pages that takes half
    as long as the product of a vocabulary with a batch of texts.
    """
    size = rows * width * 4
    if size < _RETURNED:
        return torch.empty(rows, width)
    return torch.frombuffer(large_pages(size), dtype=torch.float32).view(rows, width)

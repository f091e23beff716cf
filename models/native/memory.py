"""Memory for matrices: in pages of two megabytes where the system gives them.

A step reads every matrix once; with smaller pages, looking up where they lie takes a good part of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.native.structures import ALIGNMENT
from models.pages import large_pages

_CHUNK = 32 << 20
_AHEAD = 8192  # bytes that the kernels may fetch behind what they read


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

"""Matrices as a GGUF file has them: rows of quantised blocks, whose weights share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from torch import Tensor

KEPT = (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q4_K)  # that our kernels compute with


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A matrix [rows, inputs]: `raw` [rows, bytes] uint8, each row whole blocks of one `kind`."""

    kind: Type
    raw: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the matrix that it stands for."""
        block_size, block_bytes = GGML_QUANT_SIZES[self.kind]
        return torch.Size((len(self.raw), self.raw.shape[1] // block_bytes * block_size))

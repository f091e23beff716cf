"""In which formats the matrices of a model are kept, and what rows are to be multiplied with them.

Why so: models/README.md, "Quantised weights", has the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor, nn

from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.native.library import Library
from models.native.structures import Format
from models.native.weights import Matrix
from models.weights.blocks import Blocks

FORMATS = {torch.float32: Format.FLOAT32, torch.bfloat16: Format.BFLOAT16}
_FOUR_BITS = (Format.Q4_0, Format.Q4_1, Format.Q4_K)


class Quantise(Enum):
    """What becomes of matrices. The blocks of a GGUF file stay as they are wherever they are small enough."""

    KEEP = "keep"  # the file's own blocks, whatever they are: the very bits of a model that is not quantised
    INT8 = "int8"  # eight bits at most, and rows are rounded to eight bits, too
    INT4 = "int4"  # four bits at most where they do little harm, eight elsewhere; blocks of four bits stay


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How matrices are packed. `dtype`: of rows, unless they are rounded further.

    `kept`: the blocks of layers whose weights were not filled in.
    """

    library: Library
    dtype: torch.dtype
    quantise: Quantise | None = None
    kept: Mapping[nn.Module, Blocks] = field(default_factory=dict)

    @property
    def operand(self) -> Format:
        """Of rows that are multiplied."""
        return Format.INT8 if self.quantise is Quantise.INT8 else FORMATS[self.dtype]

    def matrix(self, layer: Linear | Embedding, *, gated: bool = False, coarse: bool = False) -> Matrix:
        """That of a layer; `coarse`: whether errors in it do little harm."""
        rows: Tensor | Blocks = self.kept.get(layer, layer.weight)
        bias = layer.bias if isinstance(layer, Linear) else None
        format_ = self._format(rows, coarse=coarse)
        # A matrix that is not quantised keeps its own precision, and so do its rows.
        operand = self.operand if format_ >= Format.Q8_0 else None
        return Matrix(self.library, rows, bias, format_, operand=operand, gated=gated)

    def _format(self, rows: Tensor | Blocks, *, coarse: bool) -> Format:
        own = Format[rows.kind.name] if isinstance(rows, Blocks) else None
        match self.quantise:
            case Quantise.INT8:
                return own or Format.Q8_0
            case Quantise.INT4 if coarse:
                return own if own in _FOUR_BITS else Format.Q4_1
            case Quantise.INT4:
                return own or Format.Q8_0
            case Quantise.KEEP if own is not None:
                return own
        return FORMATS[rows.dtype if isinstance(rows, Tensor) else self.dtype]

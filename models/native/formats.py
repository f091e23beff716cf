"""What quantisation came to: in which formats the matrices of a model lie."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.native.structures import Format
from models.native.weights import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of the matrices that kernels multiply with, those in blocks of few bits; bytes as they are packed."""

    blocks: int
    matrices: int
    block_bytes: int
    nbytes: int

    def __str__(self) -> str:
        megabytes = f"{self.block_bytes / 1e6:.1f} of {self.nbytes / 1e6:.1f} MB"
        return f"{self.blocks} of {self.matrices} matrices, {megabytes}"


def share_in_blocks(module: nn.Module) -> Share:
    """What of `module` is in blocks; nothing where there are no kernels."""
    parts = (part.matrix for part in module.modules() if isinstance(part, Linear | Embedding))
    matrices = [matrix for matrix in parts if matrix is not None]
    blocks = [matrix for matrix in matrices if matrix.format >= Format.Q8_0]
    return Share(
        blocks=len(blocks), matrices=len(matrices), block_bytes=_bytes(blocks), nbytes=_bytes(matrices)
    )


def _bytes(matrices: list[Matrix]) -> int:
    return sum(matrix.nbytes for matrix in matrices)

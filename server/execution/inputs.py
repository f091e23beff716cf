"""From a planned step to the tensors that a model takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.ops.paging import Paging
from server.scheduling.plan import DecodeStep, Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderInputs:
    """The slices of one step laid end to end, T tokens in all."""

    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64, each token's place in its own sequence
    paging: Paging
    sampling: tuple[Slice, ...]  # the slices that end in a new token
    rows: Tensor  # [sampling] int64, the index of each one's last token

    @classmethod
    def build(cls, step: DecodeStep, *, block_size: int, device: torch.device) -> DecoderInputs:
        tokens, positions, rows = list[int](), list[int](), list[int]()
        for piece in step.slices:
            end = piece.start + piece.count
            tokens += piece.sequence.tokens[piece.start : end]
            positions += range(piece.start, end)
            if piece.samples:
                rows.append(len(tokens) - 1)
        paging = Paging.build(
            [piece.sequence.blocks for piece in step.slices],
            [piece.start for piece in step.slices],
            [piece.count for piece in step.slices],
            block_size,
            device,
        )
        return cls(
            tokens=torch.tensor(tokens, device=device),
            positions=torch.tensor(positions, device=device),
            paging=paging,
            sampling=tuple(piece for piece in step.slices if piece.samples),
            rows=torch.tensor(rows, dtype=torch.int64, device=device),
        )

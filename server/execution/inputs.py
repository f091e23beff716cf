"""From a planned step to the tensors that a model takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.layers.lora import Mixing
from models.ops.paging import Paging
from server.scheduling.plan import DecodeStep, Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderInputs:
    """The slices of one step laid end to end, T tokens in all."""

    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64, each token's place in its own sequence
    paging: Paging
    mixing: Mixing | None = None  # which tokens run with which adapter

    @classmethod
    def build(cls, step: DecodeStep, *, block_size: int, device: torch.device) -> DecoderInputs:
        runs = [run for piece in step.slices for run in piece.runs]
        counts = [len(run.tokens) for run in runs]
        positions = [place for run in runs for place in range(run.start, run.start + len(run.tokens))]
        return cls(
            tokens=torch.tensor([token for run in runs for token in run.tokens], device=device),
            positions=torch.tensor(positions, device=device),
            paging=Paging(
                [run.table for run in runs], [run.start for run in runs], counts, block_size, device
            ),
            mixing=Mixing.of(
                [(piece.sequence.lora, piece.count * piece.width) for piece in step.slices], device
            ),
        )


@dataclass(slots=True)
class Readout:
    """The rows of a step's output, [T, hidden], whose logits are wanted for one slice."""

    piece: Slice
    sampled: range  # for its new token, for one after each token of its draft, or for those of all branches
    prompt: range  # for the scores of prompt tokens: each row is of the token before

    @property
    def scored(self) -> list[int]:
        """The prompt tokens that `prompt` scores."""
        sequence = self.piece.sequence
        return sequence.tokens[sequence.scored + 1 : sequence.scored + 1 + len(self.prompt)]


def read_out(step: DecodeStep) -> list[Readout]:
    """Which rows each slice needs, in the order of the step."""
    readouts, first = list[Readout](), 0
    for piece in step.slices:
        samples = piece.width + len(piece.draft) if piece.samples else 0
        behind = first + piece.count * piece.width
        scores = _scores(piece)
        readouts.append(
            Readout(
                piece,
                sampled=range(behind - samples, behind),
                prompt=range(first + scores.start - piece.start, first + scores.stop - piece.start),
            )
        )
        first = behind
    return readouts


def _scores(piece: Slice) -> range:
    """Positions in the sequence from which a prompt token is scored that was not before."""
    sequence = piece.sequence
    if sequence.prompt_alternatives is None or sequence.scored >= sequence.prompt_length - 1:
        return range(piece.start, piece.start)
    assert piece.start <= sequence.scored, "what is scored must be computed, not found in the cache"
    return range(sequence.scored, max(sequence.scored, min(piece.end, sequence.prompt_length - 1)))

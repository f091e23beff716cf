"""Rows of logits in brief, as a sampler needs them: by our own kernels where they are at hand, or by PyTorch.

Each number depends on its own row only, bit for bit. The two differ by how exponentials are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from models.native.library import Library
from models.native.scores import survey
from server.execution.sampling.whole import NOBODY, Whole
from server.execution.scores import Peaks, leaders, peaks


class Surveyor(Protocol):
    """Looks at logits [rows, vocabulary], float32, and leaves them alone."""

    def peaks(self, logits: Tensor) -> Peaks: ...

    def wholes(
        self, logits: Tensor, places: Sequence[int], divisors: Sequence[float], leading: int
    ) -> list[Whole]:
        """The rows `places`, each divided by its divisor, with at least so many of its leaders listed."""


class TorchSurveyor:
    """On any device."""

    def peaks(self, logits: Tensor) -> Peaks:
        return peaks(logits)

    def wholes(
        self, logits: Tensor, places: Sequence[int], divisors: Sequence[float], leading: int
    ) -> list[Whole]:
        scores = logits.index_select(0, torch.tensor(places, device=logits.device))
        scores /= torch.tensor(divisors, device=logits.device)[:, None]
        found = self.peaks(scores)
        return [
            Whole(row, best, mass, NOBODY if math.isnan(mass) else leaders(row, leading))
            for row, best, mass in zip(
                scores.numpy(force=True), found.best.tolist(), found.masses.tolist(), strict=True
            )
        ]


class NativeSurveyor:
    """By our own kernels, on all of their threads. Logits lie in host memory."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def peaks(self, logits: Tensor) -> Peaks:
        rows = len(logits)
        found = survey(self._library, logits, range(rows), [1.0] * rows, 0)
        return Peaks(found.best, found.masses)

    def wholes(
        self, logits: Tensor, places: Sequence[int], divisors: Sequence[float], leading: int
    ) -> list[Whole]:
        found = survey(self._library, logits, places, divisors, leading)
        rows = logits.numpy()
        each = zip(
            places,
            divisors,
            found.best.tolist(),
            found.masses.tolist(),
            found.leaders.tokens,
            found.leaders.counts.tolist(),
            strict=True,
        )
        return [
            Whole(rows[place], best, mass, tokens[:count], divisor)
            for place, divisor, best, mass, tokens, count in each
        ]


TORCH = TorchSurveyor()

"""Repetition, presence and frequency penalties: tokens that are there already become less likely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.execution.sampling.row import Row

LARGEST = 1e30  # of a changed logit: what is infinite has no softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """What some tokens lose: a positive logit is divided, a negative one multiplied, then all are lowered."""

    tokens: NDArray[np.int64]  # [k], rising
    losses: NDArray[np.float64]  # [k]
    divisor: float = 1.0

    @classmethod
    def of(cls, losses: dict[int, float]) -> Penalty:
        tokens = sorted(losses)
        each = np.array([losses[token] for token in tokens], dtype=np.float64)
        return cls(tokens=np.array(tokens, dtype=np.int64), losses=each)

    def change_row(self, scores: Tensor) -> None:
        """Penalize in place the logits of a whole vocabulary, `scores` [vocabulary] float32."""
        index = torch.from_numpy(self.tokens).to(scores.device)
        changed = self._change(scores[index].double().numpy(force=True), self.losses)
        scores[index] = torch.from_numpy(changed).to(scores)

    def change_some(self, logits: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """The logits [n] of `tokens` [n], penalized."""
        if not len(self.tokens):
            return logits
        place = self.tokens.searchsorted(tokens).clip(max=len(self.tokens) - 1)
        found = self.tokens[place] == tokens
        return np.where(found, self._change(logits, self.losses[place]), logits)

    def _change(self, logits: NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is banned stays so: minus infinity is not clipped."""
        divisor = min(max(self.divisor, 1 / LARGEST), LARGEST)
        scaled = np.where(logits > 0, logits / divisor, logits * divisor)
        changed = (scaled - losses.clip(-LARGEST, LARGEST)).clip(-LARGEST, LARGEST)
        return np.where(logits == -np.inf, logits, changed)


def penalty(row: Row) -> Penalty:
    """The three penalties of `row`, over its last `penalty_window` tokens.

    Repetition (CTRL, arXiv 1909.05858) looks at prompt and output. Presence and frequency look at the output
    alone, as OpenAI's do: a token loses `presence_penalty` once and `frequency_penalty` each time.
    """
    sampling = row.sampling
    start = row.window(sampling.penalty_window)
    output = np.array(row.tokens[max(start, row.prompt_length) :], dtype=np.int64)
    tokens, counts = np.unique(output, return_counts=True)
    each, once = _bounded(sampling.frequency_penalty), _bounded(sampling.presence_penalty)
    losses = counts.astype(np.float64) * each + once
    if sampling.repetition_penalty == 1.0:
        return Penalty(tokens=tokens, losses=losses)
    seen = np.unique(np.array(row.tokens[start:], dtype=np.int64))
    of_all = np.zeros(len(seen))
    of_all[seen.searchsorted(tokens)] = losses
    return Penalty(tokens=seen, losses=of_all, divisor=sampling.repetition_penalty)


def _bounded(loss: float) -> float:
    return min(max(loss, -LARGEST), LARGEST)

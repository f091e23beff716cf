"""A row before anything has narrowed it, and what is measured over a distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.execution.scores import Tokens, Values, largest, log_masses


@dataclass(frozen=True, slots=True)
class Whole:
    """A row before anything has narrowed it: [vocabulary], float32; minus infinity is banned."""

    scores: NDArray[np.float32]
    best: int  # the token of the largest
    log_mass: float  # see `log_masses`

    @classmethod
    def each(cls, scores: Tensor, best: Tokens, log_masses: Values) -> list[Whole]:
        """Of each row, [rows, vocabulary] float32."""
        rows = scores.numpy(force=True)
        return [cls(*each) for each in zip(rows, best.tolist(), log_masses.tolist(), strict=True)]

    @classmethod
    def of(cls, scores: Tensor) -> Whole:
        """Of one row, [vocabulary] float32."""
        best = largest(scores[None])
        return cls.each(scores[None], best, log_masses(scores[None], best))[0]

    @property
    def possible(self) -> bool:
        """Whether there is any token to choose: not in a row of NaN, nor without any finite logit."""
        return not math.isnan(self.log_mass)

    def logprobs(self, logits: Values) -> Values:
        """Of tokens with these of the row's logits, [n]."""
        logprobs: Values = (logits - float(self.scores[self.best])) - self.log_mass
        return logprobs

    def entropy(self) -> float:
        """In nats."""
        return entropy(self.logprobs(self._finite()))

    def flatness(self) -> float:
        """The entropy as a share of the greatest that so many possible tokens can have."""
        return flatness(self.logprobs(self._finite()))

    def deviation(self) -> float:
        """The standard deviation of the logits."""
        return deviation(self._finite())

    def _finite(self) -> Values:
        finite = self.scores > -np.inf
        return (self.scores if finite.all() else self.scores[finite]).astype(np.float64)


def entropy(logprobs: Values) -> float:
    """Of the distribution `logprobs` [n], in nats."""
    return float(-(np.exp(logprobs) * logprobs).sum())


def flatness(logprobs: Values) -> float:
    """The entropy of `logprobs` [n] in [0, 1]: as a share of log n."""
    size = len(logprobs)
    return min(max(entropy(logprobs) / math.log(size), 0.0), 1.0) if size > 1 else 0.0


def deviation(logits: Values) -> float:
    """Of the population `logits` [n]."""
    return float(logits.std())

"""A row before anything has narrowed it, and what is measured over a distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.execution.scores import Tokens, Values, peaks

NOBODY: Tokens = np.empty(0, np.int64)


@dataclass(slots=True)
class Whole:
    """A row before anything has narrowed it: [vocabulary], float32; minus infinity is banned.

    Its scores are the `undivided` ones over the `divisor`. They are seldom needed all, so they are not
    written down before.
    """

    undivided: NDArray[np.float32]
    best: int  # the token of the largest
    log_mass: float  # see `Peaks`
    leaders: Tokens  # the most probable tokens, in their order, if any are asked for
    divisor: float = 1.0

    @classmethod
    def of(cls, scores: Tensor) -> Whole:
        """Of one row, [vocabulary] float32; its leaders are not looked for."""
        found = peaks(scores[None])
        return cls(scores.numpy(force=True), int(found.best[0]), float(found.masses[0]), NOBODY)

    @property
    def scores(self) -> NDArray[np.float32]:
        return self.undivided if self.divisor == 1.0 else self.undivided / np.float32(self.divisor)

    def logits(self, tokens: Tokens) -> Values:
        """Of `tokens` [n]."""
        return (self.undivided[tokens] / np.float32(self.divisor)).astype(np.float64)

    @property
    def possible(self) -> bool:
        """Whether there is any token to choose: not in a row of NaN, nor without any finite logit."""
        return not math.isnan(self.log_mass)

    def logprobs(self, logits: Values) -> Values:
        """Of tokens with these of the row's logits, [n]."""
        logprobs: Values = (logits - self._peak) - self.log_mass
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

    @property
    def _peak(self) -> float:
        return float(self.undivided[self.best] / np.float32(self.divisor))

    def _finite(self) -> Values:
        scores = self.scores
        finite = scores > -np.inf
        return (scores if finite.all() else scores[finite]).astype(np.float64)


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

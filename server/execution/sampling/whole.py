"""A row before anything has narrowed it, and what is measured over a distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Whole:
    """A row before anything has narrowed it: both [vocabulary], float32; minus infinity is banned."""

    scores: Tensor
    logprobs: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> Whole:
        return cls(scores, scores.log_softmax(dim=-1))

    @property
    def possible(self) -> bool:
        """Whether there is any token to choose: not in a row of NaN, nor without any finite logit."""
        return bool(self.logprobs.isfinite().any())

    def entropy(self) -> float:
        """In nats."""
        return entropy(_possible(self.logprobs))

    def flatness(self) -> float:
        """The entropy as a share of the most that so many possible tokens can have."""
        return flatness(_possible(self.logprobs))

    def deviation(self) -> float:
        """The standard deviation of the logits."""
        return deviation(_possible(self.scores))


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


def _possible(row: Tensor) -> Values:
    values = row.numpy(force=True)
    finite = values > -np.inf
    return (values if finite.all() else values[finite]).astype(np.float64)

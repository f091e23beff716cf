"""The list of tokens from which one is drawn, and what can be known of it without sorting a vocabulary.

A row is looked at as a list in falling order. The most probable `CANDIDATES` tokens nearly always decide.
Where they cannot tell (`Undecided`), the whole vocabulary is sorted and everything is done again with it.
Both lists begin alike, and both ways do the same arithmetic on what they share, so the choice is the same
bit for bit.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CANDIDATES = 256
TINY = sys.float_info.min

Values = NDArray[np.float64]
Tokens = NDArray[np.int64]


class Undecided(Exception):
    """These candidates are not the whole vocabulary, and the answer may lie beyond them."""


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
    values: Values = row[row > -torch.inf].double().numpy(force=True)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The most probable tokens at some place in the order of stages, [n] each, n > 0."""

    tokens: Tokens
    logits: Values  # falling; equals in order of tokens
    weights: Values  # in proportion to the probabilities
    mass: float  # the weight of all that may still be chosen, listed or not
    complete: bool  # whether all of that is listed
    whole: Whole | None = None  # the row, until something narrows or changes it

    @classmethod
    def reweighed(cls, tokens: Tokens, logits: Values) -> Candidates:
        """A complete list with new logits, in any order."""
        order = np.lexsort((tokens, -logits))
        tokens, logits = tokens[order], logits[order]
        weights = np.exp(logits - logits[0])
        mass = float(weights.cumsum()[-1])
        return cls(tokens=tokens, logits=logits, weights=weights, mass=mass, complete=True)

    def first(self, count: int) -> Candidates:
        """The `count` most probable ones."""
        return self._only(slice(count))

    def where(self, kept: NDArray[np.bool_]) -> Candidates:
        """Those that `kept` [n] marks; whatever is not listed is dropped."""
        return self._only(kept)

    def _only(self, kept: slice | NDArray[np.bool_]) -> Candidates:
        weights = self.weights[kept]
        return Candidates(
            tokens=self.tokens[kept],
            logits=self.logits[kept],
            weights=weights,
            mass=float(weights.cumsum()[-1]),
            complete=True,
        )

    def without_first(self, count: int) -> Candidates:
        """All but the `count` most probable ones.

        A list that was never narrowed subtracts what is gone from its mass, as a part of it must: the rest
        of the mass is not listed.
        """
        weights = self.weights[count:]
        if self.whole is None:
            mass = float(weights.cumsum()[-1])
        else:
            mass = max(self.mass - float(self.weights[:count].cumsum()[-1]), float(weights[0]))
        return Candidates(
            tokens=self.tokens[count:],
            logits=self.logits[count:],
            weights=weights,
            mass=mass,
            complete=self.complete,
        )

    def while_at_least(self, values: Values, threshold: float) -> Candidates:
        """Those whose value [n], falling with the probability, reaches the threshold; at least the best."""
        count = int((values >= min(threshold, float(values[0]))).sum())
        if count == len(self.tokens) and not self.complete:
            raise Undecided
        return self.first(count)

    @property
    def surprises(self) -> Values:
        """Minus the log-probability of each, in nats [n]. Never infinite, even where a weight is zero."""
        least = math.log(max(self.mass, TINY)) - math.log(max(float(self.weights[0]), TINY))
        surprises: Values = (self.logits[0] - self.logits) + least
        return surprises

    def entropy(self) -> float:
        """Of all that may still be chosen, in nats."""
        if self.whole is not None:
            return self.whole.entropy()
        self.require_all()
        return entropy(-self.surprises)

    def flatness(self) -> float:
        """The entropy as a share of the most that so many tokens can have."""
        if self.whole is not None:
            return self.whole.flatness()
        self.require_all()
        return flatness(-self.surprises)

    def deviation(self) -> float:
        """The standard deviation of all logits that may still be chosen."""
        if self.whole is not None:
            return self.whole.deviation()
        self.require_all()
        return deviation(self.logits)

    def require_all(self) -> None:
        if not self.complete:
            raise Undecided

    def choose(self, number: float) -> int:
        """Index of the token at `number` in [0, 1) of the cumulative distribution."""
        index = int(self.weights.cumsum().searchsorted(number * self.mass, side="right"))
        if index < len(self.tokens):
            return index
        self.require_all()
        return max(int(np.count_nonzero(self.weights)) - 1, 0)  # beyond the last by rounding only


def most_probable(scores: Tensor, logprobs: Tensor) -> list[Candidates | None]:
    """The top `CANDIDATES` of each row of `scores` [rows, vocabulary], with its `logprobs`.

    topk takes any of those equal to its last, so these are left out. None: then there are none left, or the
    row is not made of numbers.
    """
    size = scores.shape[-1]
    best, tokens = scores.topk(min(CANDIDATES, size), dim=-1)
    tokens, by_id = tokens.sort(dim=-1)
    best, by_value = best.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    tokens = tokens.gather(1, by_value)
    last = torch.full_like(best[:, -1:], -torch.inf) if best.shape[-1] == size else best[:, -1:]
    counts = (best > last).sum(dim=-1).tolist()
    complete = (last[:, 0] == -torch.inf).tolist()
    logits = best.double().numpy(force=True)
    weights = np.exp(logprobs.gather(1, tokens).double().numpy(force=True))
    ids = tokens.numpy(force=True)
    return [
        Candidates(
            tokens=ids[i, :count],
            logits=logits[i, :count],
            weights=weights[i, :count],
            mass=1.0,
            complete=complete[i],
            whole=Whole(scores[i], logprobs[i]),
        )
        if count and weights[i, 0] > 0
        else None
        for i, count in enumerate(counts)
    ]


def everything(whole: Whole) -> Candidates:
    """All possible tokens of the row: the exact way, needed where the distribution is flat."""
    scores = whole.scores.numpy(force=True)
    tokens = falling(scores)[: int((scores > -np.inf).sum())]
    weights = np.exp(whole.logprobs.numpy(force=True)[tokens].astype(np.float64))
    return Candidates(
        tokens=tokens,
        logits=scores[tokens].astype(np.float64),
        weights=weights,
        mass=1.0,
        complete=True,
        whole=whole,
    )


def falling(scores: NDArray[np.float32]) -> Tokens:
    """The order of `scores` [vocabulary], largest first, equals by index.

    Sorts one integer for each, value above index: no two are equal, so the fastest sort is stable.
    """
    bits = (scores + np.float32(0.0)).view(np.int32)  # minus zero becomes zero: they are equal
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    keys = np.sort((~rising << 32) | np.arange(len(scores)))
    return keys & 0xFFFFFFFF

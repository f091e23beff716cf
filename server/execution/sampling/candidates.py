"""The list of tokens from which one is drawn, and what can be known of it without sorting a vocabulary.

A row is looked at as a list in falling order. The most probable tokens nearly always decide. Where they
cannot tell (`Undecided`), the whole vocabulary is sorted and everything is done again with it. Both lists
begin alike, and both ways do the same arithmetic on what they share: the choice is the same bit for bit.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.execution.sampling.whole import Whole, deviation, entropy, flatness
from server.execution.scores import Tokens, Values

TINY = sys.float_info.min


class Undecided(Exception):
    """These candidates are not all there is, and the answer may lie beyond them."""


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

        Where nothing has narrowed the row yet, not all of its mass may be listed: what is gone is subtracted.
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

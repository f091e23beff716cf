"""How long a step will take, learnt from those that ran."""

from __future__ import annotations

from collections.abc import Sequence as Seq

MEMORY = 0.97  # what a step still weighs after the next one: the last hundred or so count
SWEEPS = 8
OUTLIER = 4.0  # a step that took so many times what was foreseen is taken for that much


class Pace:
    """A linear law, seconds = sum of weight x feature, none of its weights negative.

    Least squares over relative errors, so that a step of one row counts as much as one of a thousand tokens
    and a single stall does little; older steps fade. Solved by coordinate descent from the last solution,
    which leaves alone what the steps so far cannot tell apart.
    """

    def __init__(self, features: int) -> None:
        self.weights = [0.0] * features
        self._products = [[0.0] * features for _ in range(features)]
        self._targets = [0.0] * features

    @property
    def measured(self) -> bool:
        return any(self.weights)

    def seconds(self, features: Seq[float]) -> float:
        """What a step of these features takes; 0.0 while nothing like it was measured."""
        return sum(weight * feature for weight, feature in zip(self.weights, features, strict=True))

    def observe(self, features: Seq[float], seconds: float) -> None:
        """A step of these features took so long. Steps that took no time teach nothing."""
        if seconds <= 0.0:
            return
        foreseen = self.seconds(features)
        if foreseen > 0.0:
            seconds = min(seconds, OUTLIER * foreseen)
        self._fade_in([feature / seconds for feature in features])
        for _ in range(SWEEPS):
            self._descend()

    def _fade_in(self, relative: Seq[float]) -> None:
        """One more equation: relative features x weights = 1."""
        for i, one in enumerate(relative):
            self._targets[i] = MEMORY * self._targets[i] + one
            for j, other in enumerate(relative):
                self._products[i][j] = MEMORY * self._products[i][j] + one * other

    def _descend(self) -> None:
        for i, products in enumerate(self._products):
            if products[i] > 0.0:
                rest = self.seconds(products) - self.weights[i] * products[i]
                self.weights[i] = max(0.0, (self._targets[i] - rest) / products[i])

"""How long a step will take, learnt from those that ran."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from server.scheduling.plan import DecodeStep, EncodeStep

MEMORY = 0.95  # what a step still weighs after the next one: the last fifty or so count
SWEEPS = 8
FEWEST_STEPS = 3  # before a law is believed: the first may have warmed the device up


class Pace:
    """A linear law, seconds = sum of weight x feature, none of its weights negative.

    Least squares over relative errors, so that a step of one row counts as much as one of a thousand tokens,
    and a stall for next to nothing: no law is off by more than all of it. Older steps fade. Solved by
    coordinate descent from the last solution, which leaves alone what the steps so far cannot tell apart.
    """

    def __init__(self, features: int) -> None:
        self.weights = [0.0] * features
        self._products = [[0.0] * features for _ in range(features)]
        self._targets = [0.0] * features
        self._steps = 0

    @property
    def known(self) -> bool:
        """Whether enough steps were measured to rely on them."""
        return self._steps >= FEWEST_STEPS

    def seconds(self, features: Seq[float]) -> float:
        """What a step of these features takes; 0.0 while nothing like it was measured."""
        return sum(weight * feature for weight, feature in zip(self.weights, features, strict=True))

    def observe(self, features: Seq[float], seconds: float) -> None:
        """A step of these features took so long. Steps that took no time teach nothing."""
        if seconds <= 0.0:
            return
        self._steps += 1
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a lane could do now."""

    streams: int = 0  # that wait for their next token
    streams_s: float = 0.0  # what a step of these takes, prompts left out; 0.0 while their pace is unknown
    hungry: bool = False  # whether there is work beside the rows of streams


class DecoderPace:
    """Of a decoder: seconds by prompt tokens, by rows of streams (drafts are such, too), and by step."""

    def __init__(self) -> None:
        self._law = Pace(3)

    @property
    def known(self) -> bool:
        """Whether enough steps were measured to rely on them."""
        return self._law.known

    @property
    def per_token(self) -> float:
        """0.0 while no prompt was measured.

        Never more than a step of one row: a first prompt that warmed the device up tells nothing beyond that.
        """
        one_row_s = self._law.seconds((0, 1, 1))
        return min(self._law.weights[0], one_row_s) if self.per_row > 0.0 else self._law.weights[0]

    @property
    def per_row(self) -> float:
        return self._law.weights[1]

    @property
    def per_step(self) -> float:
        return self._law.weights[2]

    def observe(self, step: DecodeStep, seconds: float) -> None:
        self._law.observe((*_prompt_tokens_and_rows(step), 1), seconds)

    def seconds(self, *, tokens: int = 0, rows: int = 0) -> float:
        """A step of so many prompt tokens and rows; 0.0 for what is unknown."""
        return self._law.seconds((tokens, rows, 1))

    def prompt_part(self, step: DecodeStep) -> float:
        """Which part of a step's time prompts took, between 0 and 1. Rows, if any, pay the step."""
        tokens, rows = _prompt_tokens_and_rows(step)
        total = self.seconds(tokens=tokens, rows=rows)
        if not rows:
            return 1.0
        return tokens * self.per_token / total if total > 0.0 else tokens / step.num_tokens


class EncoderPace:
    """Of an encoder: seconds by token, and by step."""

    def __init__(self) -> None:
        self._law = Pace(2)

    @property
    def known(self) -> bool:
        """Whether enough steps were measured to rely on them."""
        return self._law.known

    @property
    def per_token(self) -> float:
        """0.0 while nothing was measured."""
        return self._law.weights[0]

    @property
    def per_step(self) -> float:
        return self._law.weights[1]

    def observe(self, step: EncodeStep, seconds: float) -> None:
        self._law.observe((step.num_tokens, 1), seconds)


def _prompt_tokens_and_rows(step: DecodeStep) -> tuple[int, int]:
    tokens = rows = 0
    for piece in step.slices:
        if piece.streams:
            rows += piece.num_tokens
        else:
            tokens += piece.num_tokens
    return tokens, rows

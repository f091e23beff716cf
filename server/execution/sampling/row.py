"""What the sampler is told of one place in a text, and what it answers.

Made for each row of each step: see `scheduling/plan.py` for why these are not frozen.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from torch import Tensor

from server.request import Sampling
from server.scheduling.plan import Scored


@dataclass(slots=True, kw_only=True)
class Row:
    """What the sampler knows of one sequence at one place."""

    sampling: Sampling
    tokens: Seq[int]  # prompt and output so far
    prompt_length: int = 0
    max_new_tokens: int | None = None
    stop_tokens: frozenset[int] = frozenset()
    alternatives: int = 0
    surprise: float | None = None  # mirostat's bound so far, in bits
    allowed: Tensor | None = None  # [vocabulary / 32] int32: a bit for each token that a grammar allows

    @property
    def generated(self) -> int:
        """How many tokens of output there are."""
        return len(self.tokens) - self.prompt_length

    @property
    def forced(self) -> int | None:
        """The only token allowed here; None: there is a choice. A place that is first and last is last."""
        if self.max_new_tokens is not None and self.generated == self.max_new_tokens - 1:
            last = self.sampling.forced_last
            if last is not None:
                return last
        return self.sampling.forced_first if self.generated == 0 else None

    def window(self, size: int | None) -> int:
        """Where the last `size` tokens begin; None: all."""
        return 0 if size is None else max(0, len(self.tokens) - size)


@dataclass(slots=True)
class Drawn:
    """What was chosen at one place, and mirostat's bound for the next."""

    scored: Scored
    surprise: float | None = None

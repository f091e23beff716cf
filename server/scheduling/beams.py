"""Beam search: texts that go on from one prompt side by side, until those that have ended are beyond them.

It takes the choices that transformers 5 takes in `generate(num_beams=...)`, one prompt at a time, in the same
float32 arithmetic. The branches share what they have in common: a block is copied when the second of them is
about to write to it (copy-on-write, cf. Kwon et al. 2023, PagedAttention, arXiv 2309.06180, section 4.4).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from ctypes import c_float
from dataclasses import dataclass

from server.request import Beams, EarlyStopping
from server.scheduling.plan import Continuation, Scored

FLOOR = -1e9  # of a score: below it is who never counts
TINY = 1e-45  # what a power of a length is at least: scores are divided by it


@dataclass(slots=True, kw_only=True, eq=False)
class Branch:
    """A text that still grows: what it `said` after the prompt, and the blocks that hold it, in order."""

    said: tuple[Scored, ...]
    score: float  # the sum of its log-probabilities, in float32
    table: list[int]

    @property
    def tokens(self) -> list[int]:
        """After the prompt."""
        return [scored.token for scored in self.said]


@dataclass(frozen=True, slots=True)
class Complete:
    """A text that has ended; its score is weighed by its length."""

    said: tuple[Scored, ...]
    score: float


def first_scores(width: int) -> tuple[float, ...]:
    """Of the branches before anything is said: equal as they are, only the first one's tokens may win."""
    return (0.0, *(FLOOR,) * (width - 1))


class Search:
    """As many branches as `beams.width`, all of one length, and the best of the texts that have ended.

    It begins with a prompt that is computed, in the blocks of `table`.
    """

    def __init__(
        self, beams: Beams, *, table: Seq[int], stop_tokens: frozenset[int], max_new_tokens: int
    ) -> None:
        self.branches = [
            Branch(said=(), score=score, table=list(table)) for score in first_scores(beams.width)
        ]
        self.copies = list[tuple[int, int]]()  # of blocks, to be made before the next token is computed
        self.generated = 0  # tokens of each branch
        self.best: tuple[Scored, ...] = ()  # what is said in the end; empty until the search is over
        self._beams = beams
        self._stop_tokens = stop_tokens
        self._max_new_tokens = max_new_tokens
        self._complete = list[Complete]()  # best first, at most `beams.width`

    def advance(self, continuations: Seq[Continuation]) -> None:
        """Go on by a token, with the best `continuations` of all branches, best first.

        There must be enough of them for as many branches again, whichever end: with s stop tokens s + 1
        times the width. A text is complete only where its end is among the best `width` of them.
        """
        self.generated += 1
        self.copies = []
        growing = [one for one in continuations if not self._ends(one)]
        self._add_complete([one for one in continuations[: self._beams.width] if self._ends(one)])
        fallback = self._said(continuations[0])
        self.branches = [self._grow(one) for one in growing[: self._beams.width]]
        if not growing or self._settled():
            self.best = self._complete[0].said if self._complete else fallback

    def needing(self, number: int) -> list[Branch]:
        """The branches that lack a block of their own at place `number` of their tables, the last one.

        Of those that share one, the first may keep it.
        """
        kept, needing = set[int](), list[Branch]()
        for branch in self.branches:
            if len(branch.table) > number and branch.table[number] not in kept:
                kept.add(branch.table[number])
            else:
                needing.append(branch)
        return needing

    def equip(self, branches: Seq[Branch], blocks: Seq[int], number: int) -> None:
        """Give each of `branches` one of `blocks` for place `number`, with what it shared there so far."""
        for branch, block in zip(branches, blocks, strict=True):
            if len(branch.table) > number:
                self.copies.append((branch.table[number], block))
                branch.table[number] = block
            else:
                branch.table.append(block)

    def _grow(self, one: Continuation) -> Branch:
        table = self.branches[one.parent].table
        return Branch(said=self._said(one), score=one.score, table=list(table))

    def _said(self, one: Continuation) -> tuple[Scored, ...]:
        return (*self.branches[one.parent].said, one.scored)

    def _ends(self, one: Continuation) -> bool:
        return one.scored.token in self._stop_tokens or self.generated == self._max_new_tokens

    def _add_complete(self, ended: Seq[Continuation]) -> None:
        """Of equals, who came first stays."""
        new = [Complete(self._said(one), self._weigh(one.score, self.generated)) for one in ended]
        best_first = sorted([*self._complete, *new], key=lambda one: one.score, reverse=True)
        self._complete = best_first[: self._beams.width]

    def _settled(self) -> bool:
        """Whether the texts that still grow are given up."""
        beams, full = self._beams, len(self._complete) == self._beams.width
        if full and beams.early_stopping is EarlyStopping.AT_ONCE:
            return True
        hopeful = beams.early_stopping is EarlyStopping.NEVER and beams.length_penalty > 0.0
        length = self._max_new_tokens if hopeful else self.generated
        worst = self._complete[-1].score if full else FLOOR
        return not self._weigh(self.branches[0].score, length) > worst

    def _weigh(self, score: float, length: int) -> float:
        weight = max(c_float(length**self._beams.length_penalty).value, TINY)
        return c_float(score / weight).value

"""Guesses at the next tokens, for the model to check several in one pass.

A text that repeats itself (a document being edited, code, a list, a quotation) tells what comes next: what
followed the last time these tokens stood there (prompt look-up: Saxena 2023; Yang et al. 2023,
arXiv 2304.04487). Checking is exact, so a wrong guess costs time and never changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from server.scheduling.sequence import Sequence

NGRAMS = (3, 2)  # tokens that must stand there; the longer says more, so it is asked first
LONGEST = 8  # beyond, a guess rarely stands, and the pass stops being one that memory bandwidth pays for
FIRST = 4
LONGEST_REST = 64


class PromptLookup:
    """Where each n-gram of a growing text stood last. The text may only grow."""

    def __init__(self) -> None:
        self._behind: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in NGRAMS}  # n-gram -> place after
        self._indexed = 0  # n-grams that end before this place are known

    def guess(self, tokens: Seq[int], count: int) -> tuple[int, ...]:
        """Up to `count` tokens after `tokens`; none if its last tokens are new to the text."""
        self._index(tokens)
        for n in NGRAMS:
            place = self._behind[n].get(tuple(tokens[-n:]))
            if place is not None:
                return _copy(tokens, place, count)
        return ()

    def _index(self, tokens: Seq[int]) -> None:
        """All but the n-grams at the very end, which would only find themselves."""
        for n in NGRAMS:
            behind = self._behind[n]
            for place in range(max(self._indexed, n), len(tokens)):
                behind[tuple(tokens[place - n : place])] = place
        self._indexed = max(self._indexed, len(tokens))


def _copy(tokens: Seq[int], place: int, count: int) -> tuple[int, ...]:
    """What follows `place`; past the end it goes on with its own copy, as LZ77 does."""
    period = len(tokens) - place
    return tuple(tokens[place + i % period] for i in range(count))


class Drafter:
    """Drafts for one sequence: longer while they stand, and ever more rarely while they do not."""

    def __init__(self) -> None:
        self._lookup = PromptLookup()
        self._length = FIRST
        self._rest = 0  # how many turns to let pass after the next failure
        self._resting = 0

    def draft(self, tokens: Seq[int], limit: int) -> tuple[int, ...]:
        """At most `limit` tokens, often none."""
        if self._resting:
            self._resting -= 1
            return ()
        return self._lookup.guess(tokens, min(limit, self._length)) if limit > 0 else ()

    def learn(self, drafted: int, accepted: int) -> None:
        """So many of a draft stood."""
        if accepted == 0:
            self._rest = self._resting = min(LONGEST_REST, max(1, 2 * self._rest))
            self._length = max(1, self._length // 2)
            return
        self._rest = 0
        self._length = min(LONGEST, 2 * drafted) if accepted == drafted else max(2, accepted + 1)


class Drafting:
    """The drafters of a lane's sequences, and what came of their drafts."""

    def __init__(self) -> None:
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self._drafters = dict[int, Drafter]()

    def draft(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        """At most `limit` tokens, and never as many as it still wants: the last is sampled, not drafted.

        Mirostat learns from each token, a grammar follows each token and beams branch at each, so these take
        them one by one.
        """
        if sequence.constrained or sequence.sampling.mirostat is not None or sequence.beams is not None:
            return ()
        drafter = self._drafters.setdefault(sequence.id, Drafter())
        wanted = sequence.max_new_tokens - sequence.generated - 1
        return drafter.draft(sequence.tokens, min(limit, wanted))

    def learn(self, sequence: Sequence, *, drafted: int, accepted: int) -> None:
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted
        self._drafters[sequence.id].learn(drafted, accepted)

    def forget(self, id_: int) -> None:
        self._drafters.pop(id_, None)

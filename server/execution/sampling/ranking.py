"""Rows as lists of candidates: the top of each, or all of one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.execution.sampling.candidates import Candidates
from server.execution.sampling.whole import Whole
from server.execution.scores import Tokens

CANDIDATES = 256


def top(whole: Whole) -> Candidates:
    """The row's leaders, at least `CANDIDATES` of them; all possible tokens, if there are fewer."""
    return _listed(whole, whole.leaders, complete=len(whole.leaders) < CANDIDATES)


def everything(whole: Whole) -> Candidates:
    """All possible tokens of the row: the exact way, needed where the distribution is flat."""
    scores = whole.scores
    possible = np.count_nonzero(scores > -np.inf)
    return _listed(whole, falling(scores)[:possible], complete=True)


def _listed(whole: Whole, tokens: Tokens, *, complete: bool) -> Candidates:
    logits = whole.logits(tokens)
    weights = np.exp(whole.logprobs(logits))
    return Candidates(tokens=tokens, logits=logits, weights=weights, mass=1.0, complete=complete, whole=whole)


def falling(scores: NDArray[np.float32]) -> Tokens:
    """The order of `scores` [vocabulary], largest first, equals by index.

    Sorts one integer for each, value above index: no two are equal, so the fastest sort is stable.
    """
    bits = (scores + np.float32(0.0)).view(np.int32)  # minus zero becomes zero: they are equal
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    keys = np.sort((~rising << 32) | np.arange(len(scores)))
    return keys & 0xFFFFFFFF

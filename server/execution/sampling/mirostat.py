"""Mirostat, version 2: a bound on surprise that learns (Basu et al., arXiv 2007.14966)."""

from __future__ import annotations

import math

from server.execution.sampling.candidates import Candidates
from server.execution.sampling.penalties import LARGEST
from server.request import Mirostat


def within_bound(candidates: Candidates, bound: float) -> Candidates:
    """Those whose surprise is at most `bound` bits; at least the most probable."""
    return candidates.while_at_least(-candidates.surprises, -bound * math.log(2))


def first_bound(mirostat: Mirostat) -> float:
    """In bits, for the first token of a text."""
    return 2 * mirostat.tau


def next_bound(mirostat: Mirostat, bound: float, candidates: Candidates, index: int) -> float:
    """In bits, after the token at `index` of what was `within_bound`, by its surprise there."""
    surprise = float(candidates.surprises[index]) / math.log(2)
    return min(max(bound - mirostat.eta * (surprise - mirostat.tau), -LARGEST), LARGEST)

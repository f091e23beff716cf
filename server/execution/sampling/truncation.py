"""The stages that narrow what may be chosen. Each keeps at least one candidate, and says `Undecided` if
only tokens that are not listed could tell.
"""

from __future__ import annotations

import math

import numpy as np

from server.execution.randomness import Purpose, uniform
from server.execution.sampling.candidates import Candidates, Undecided
from server.execution.sampling.row import Row


def top_n_sigma(candidates: Candidates, row: Row) -> Candidates:
    """Logits within n standard deviations of the largest (Tang et al., arXiv 2411.07641)."""
    assert row.sampling.top_n_sigma is not None
    reach = row.sampling.top_n_sigma * candidates.deviation()
    return candidates.while_at_least(candidates.logits, float(candidates.logits[0]) - reach)


def top_k(candidates: Candidates, row: Row) -> Candidates:
    """The k most probable (Fan et al., arXiv 1805.04833)."""
    assert row.sampling.top_k is not None
    count = max(row.sampling.top_k, 1)
    if count > len(candidates.tokens):
        candidates.require_all()
        return candidates
    return candidates.first(count)


def typical_p(candidates: Candidates, row: Row) -> Candidates:
    """Those whose surprise is nearest to the entropy, until they weigh p (Meister et al., arXiv 2202.00666).

    Equals of the last are kept. What is not listed is more surprising than all that is, so it differs by
    more than `reach`.
    """
    typical, surprises = candidates.entropy(), candidates.surprises
    differences = np.abs(surprises - typical)
    order = differences.argsort(kind="stable")
    cumulative = candidates.weights[order].cumsum()
    last = int(cumulative.searchsorted(row.sampling.typical_p * candidates.mass))
    last = min(last, len(order) - 1)
    bound, reach = differences[order[last]], surprises[-1] - typical
    if not candidates.complete and bound >= reach:
        raise Undecided
    return candidates.where(differences <= bound)


def top_p(candidates: Candidates, row: Row) -> Candidates:
    """The fewest most probable that weigh p together: the nucleus (Holtzman et al., arXiv 1904.09751)."""
    cumulative = candidates.weights.cumsum()
    last = int(cumulative.searchsorted(row.sampling.top_p * candidates.mass))
    if last >= len(cumulative):
        candidates.require_all()
    return candidates.first(min(last + 1, len(cumulative)))


def min_p(candidates: Candidates, row: Row) -> Candidates:
    """Those at least so probable in proportion to the most probable (Nguyen et al., arXiv 2407.01082)."""
    weights = candidates.weights
    return candidates.while_at_least(weights, row.sampling.min_p * float(weights[0]))


def epsilon_cutoff(candidates: Candidates, row: Row) -> Candidates:
    """Those whose probability is at least epsilon (Hewitt et al., arXiv 2210.15191)."""
    return _at_least(candidates, row.sampling.epsilon_cutoff)


def eta_cutoff(candidates: Candidates, row: Row) -> Candidates:
    """Those whose probability is at least min(epsilon, sqrt(epsilon) e^-entropy) (the same paper)."""
    epsilon = row.sampling.eta_cutoff
    return _at_least(candidates, min(epsilon, math.sqrt(epsilon) * math.exp(-candidates.entropy())))


def xtc(candidates: Candidates, row: Row) -> Candidates:
    """Exclude top choices, by the toss of a coin: all that reach the threshold but the least of them.

    As in llama.cpp and text-generation-webui (pull request 6335, by p-e-w). The coin is a number of its own.
    """
    sampling = row.sampling
    coin = uniform(sampling.seed, sampling.sample, len(row.tokens), Purpose.XTC)
    if coin >= sampling.xtc_probability:
        return candidates
    count = int((candidates.weights >= sampling.xtc_threshold * candidates.mass).sum())
    if count == len(candidates.tokens):
        candidates.require_all()
    return candidates.without_first(count - 1) if count > 1 else candidates


def _at_least(candidates: Candidates, probability: float) -> Candidates:
    return candidates.while_at_least(candidates.weights, probability * candidates.mass)

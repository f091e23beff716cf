"""Logits in, tokens out: one per row, each row by its own parameters.

The order is: repetition penalty, temperature, min_p, top_k, top_p. After sorting by descending
probability each of the last three keeps a prefix, so a token is one inverse-CDF lookup with the
row's one uniform number. The most probable `CANDIDATES` nearly always decide; a row that they
cannot decide is sorted whole. Both ways walk the same list, so the choice is the same.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.execution.randomness import uniform
from server.request import Sampling
from server.scheduling.plan import Scored

CANDIDATES = 256
LARGEST = 1e30  # of a penalised logit: what is infinite has no softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the sampler knows of one sequence at one place."""

    sampling: Sampling
    tokens: Seq[int]  # prompt and output so far
    prompt_length: int = 0
    stop_tokens: frozenset[int] = frozenset()
    alternatives: int = 0
    surprise: float | None = None  # mirostat's bound so far
    allowed: Tensor | None = None  # [vocabulary / 32] int32: a bit for each token that a grammar allows


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was chosen at one place, and mirostat's bound for the next."""

    scored: Scored
    surprise: float | None = None


def sample(logits: Tensor, rows: Seq[Row]) -> list[Drawn]:
    """Choose a token for each row of `logits` [rows, vocabulary], float32.

    Only row-wise operations whose result does not depend on the other rows: log_softmax, topk, argmax.
    """
    logprobs = logits.log_softmax(dim=-1)
    tokens = logits.argmax(dim=-1).tolist()
    special = [i for i, row in enumerate(rows) if not _takes_the_largest(row.sampling)]
    if special:
        chosen = _sample_special(logits[special], [rows[i] for i in special])
        for i, token in zip(special, chosen, strict=True):
            tokens[i] = token
    picked = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
    return [Drawn(Scored(token, logprob)) for token, logprob in zip(tokens, picked.tolist(), strict=True)]


def _takes_the_largest(sampling: Sampling) -> bool:
    return sampling.greedy and sampling.repetition_penalty == 1.0


def _sample_special(logits: Tensor, rows: Seq[Row]) -> list[int]:
    """Tokens for rows that ask for more than the largest logit. `logits` is overwritten."""
    for row, scores in zip(rows, logits, strict=True):
        if row.sampling.repetition_penalty != 1.0:
            _penalize_repetition(scores, row)
    temperatures = [row.sampling.temperature or 1.0 for row in rows]
    logits /= torch.tensor(temperatures, device=logits.device)[:, None]
    logprobs = logits.log_softmax(dim=-1)
    best, tokens = _most_probable(logprobs)
    whole = best.shape[-1] == logprobs.shape[-1]
    decided = torch.full((len(rows),), best.shape[-1]) if whole else (best > best[:, -1:]).sum(dim=-1)
    probabilities = best.double().exp().numpy(force=True)
    chosen = list[int]()
    for i, (row, count) in enumerate(zip(rows, decided.tolist(), strict=True)):
        index = _choose(probabilities[i, :count], row, whole=whole) if count else None
        chosen.append(_sample_sorted(logprobs[i], row) if index is None else int(tokens[i, index]))
    return chosen


def _most_probable(logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """The top `CANDIDATES` of each row and their ids, in the order that a stable sort gives.

    topk leaves equals in any order, and takes any of those equal to its last: callers skip these.
    """
    best, tokens = logprobs.topk(min(CANDIDATES, logprobs.shape[-1]), dim=-1)
    tokens, by_id = tokens.sort(dim=-1)
    best, by_value = best.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    return best, tokens.gather(1, by_value)


def _penalize_repetition(scores: Tensor, row: Row) -> None:
    """Divide the positive logits of tokens already there, multiply the negative (CTRL, arXiv 1909.05858)."""
    seen = torch.tensor(sorted(set(row.tokens)), device=scores.device)
    values, penalty = scores[seen], row.sampling.repetition_penalty
    penalized = torch.where(values > 0, values / penalty, values * penalty)
    scores[seen] = penalized.clamp(-LARGEST, LARGEST)


def _sample_sorted(logprobs: Tensor, row: Row) -> int:
    """The exact way: the whole vocabulary in order. Needed where the distribution is flat."""
    ordered, tokens = logprobs.sort(descending=True, stable=True)
    index = _choose(ordered.double().exp().numpy(force=True), row, whole=True)
    assert index is not None
    return int(tokens[index])


def _choose(probabilities: NDArray[np.float64], row: Row, *, whole: bool) -> int | None:
    """Index of the chosen one among the most probable [candidates], in descending order.

    `whole` says that they are the whole vocabulary. None: they are not, and cannot decide.
    """
    if row.sampling.greedy:
        return 0
    cumulative = probabilities.cumsum()
    kept = _keep(probabilities, cumulative, row.sampling, whole=whole)
    if kept is None:
        return None
    count, mass = kept
    target = uniform(row.sampling.seed, len(row.tokens)) * mass
    index = int(cumulative.searchsorted(target, side="right"))
    if index < count:
        return index
    return count - 1 if whole else None  # by rounding; or it lies beyond what was looked at


def _keep(
    probabilities: NDArray[np.float64], cumulative: NDArray[np.float64], sampling: Sampling, *, whole: bool
) -> tuple[int, float] | None:
    """How many min_p, top_k and top_p keep, and their mass; None if these candidates cannot tell."""
    size = count = len(probabilities)
    if sampling.min_p > 0.0:
        count = int((probabilities >= sampling.min_p * probabilities[0]).sum())
    if sampling.top_k is not None:
        count = min(count, sampling.top_k)
    filtered = sampling.min_p > 0.0 or sampling.top_k is not None
    if filtered and count == size and not whole:
        return None
    mass = float(cumulative[count - 1]) if count < size else 1.0
    if sampling.top_p == 1.0:
        return count, mass
    last = int(cumulative.searchsorted(sampling.top_p * mass))
    if last >= count and not whole:
        return None
    last = min(last, count - 1)
    return last + 1, float(cumulative[last])

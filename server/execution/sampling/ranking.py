"""Rows as lists of candidates: the top of each, or all of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.execution.sampling.candidates import Candidates, Tokens
from server.execution.sampling.whole import Whole

CANDIDATES = 256


def top(scores: Tensor, logprobs: Tensor, wholes: Sequence[Whole]) -> list[Candidates | None]:
    """The most probable `CANDIDATES` of each row of `scores` and their `logprobs` [rows, vocabulary].

    `wholes` are the same rows, one by one. None: such a row is not made of numbers, or so many of its largest
    are equal that it has no top.
    """
    best, tokens, last = _falling_top(scores)
    counts = (best > last).sum(dim=-1).tolist()
    complete = (last[:, 0] == -torch.inf).tolist()
    weights = np.exp(logprobs.gather(1, tokens).double().numpy(force=True))
    logits, ids = best.double().numpy(force=True), tokens.numpy(force=True)
    return [
        Candidates(
            tokens=ids[i, :count],
            logits=logits[i, :count],
            weights=weights[i, :count],
            mass=1.0,
            complete=complete[i],
            whole=wholes[i],
        )
        if count and weights[i, 0] > 0
        else None
        for i, count in enumerate(counts)
    ]


def _falling_top(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of `scores` and their tokens, both [rows, n]; what they must exceed [rows, 1].

    Equals are in order of token. topk takes any of those that are equal to its last: none is a candidate.
    """
    size = scores.shape[-1]
    best, tokens = scores.topk(min(CANDIDATES, size), dim=-1)
    tokens, by_token = tokens.sort(dim=-1)
    best, by_score = best.gather(1, by_token).sort(dim=-1, descending=True, stable=True)
    last = best[:, -1:] if best.shape[-1] < size else torch.full_like(best[:, -1:], -torch.inf)
    return best, tokens.gather(1, by_score), last


def everything(whole: Whole) -> Candidates:
    """All possible tokens of the row: the exact way, needed where the distribution is flat."""
    scores = whole.scores.numpy(force=True)
    tokens = falling(scores)[: int((scores > -np.inf).sum())]
    weights = np.exp(whole.logprobs.numpy(force=True)[tokens].astype(np.float64))
    return Candidates(
        tokens=tokens,
        logits=scores[tokens].astype(np.float64),
        weights=weights,
        mass=1.0,
        complete=True,
        whole=whole,
    )


def falling(scores: NDArray[np.float32]) -> Tokens:
    """The order of `scores` [vocabulary], largest first, equals by index.

    Sorts one integer for each, value above index: no two are equal, so the fastest sort is stable.
    """
    bits = (scores + np.float32(0.0)).view(np.int32)  # minus zero becomes zero: they are equal
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    keys = np.sort((~rising << 32) | np.arange(len(scores)))
    return keys & 0xFFFFFFFF

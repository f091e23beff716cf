"""What the model itself thought of tokens: log-probabilities before any penalty or temperature.

A log-probability is a logit less the row's largest, less the logarithm of what all exponentials of such
differences come to. So a row takes two numbers, and nothing as long as the vocabulary is written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.scheduling.plan import Scored

ROWS = 4  # whose exponentials are in a processor's cache together
SPREAD = 4  # blocks for each leader that is wanted: the more, the fewer others come along

Tokens = NDArray[np.int64]
Values = NDArray[np.float64]
Row = NDArray[np.float32]


class Peaks(NamedTuple):
    """Two numbers of each row."""

    best: Tokens  # [rows] the token of the largest logit: of equals the first, of NaN the first
    masses: Values  # [rows] log(sum(exp(logit - largest logit))); NaN where a row has no softmax


def peaks(logits: Tensor) -> Peaks:
    """Of logits [rows, vocabulary], float32; each row's depend on it alone."""
    best = largest(logits)
    return Peaks(best, log_masses(logits, best))


def largest(logits: Tensor) -> Tokens:
    """The token of each row's largest logit, [rows]; of equals the first, and of what is no number the first.

    On a CPU by NumPy, which compares several at once where torch compares one.
    """
    if logits.device.type == "cpu":
        return logits.numpy().argmax(axis=-1)
    return logits.argmax(dim=-1).numpy(force=True)


def log_masses(logits: Tensor, best: Tokens) -> Values:
    """For each row [rows, vocabulary] log(sum(exp(logit - largest logit))), [rows]; `best`: see `largest`.

    It depends on the row alone. NaN where a row has no softmax. It is taken from torch's log-softmax, whose
    exponentials are the fastest that there are: at the largest logit that is what is subtracted.
    """
    places = torch.from_numpy(best).to(logits.device)[:, None]
    masses = np.empty(len(best))
    for first in range(0, len(best), ROWS):
        some = slice(first, first + ROWS)
        least = logits[some].log_softmax(dim=-1).gather(1, places[some])
        masses[some] = -least[:, 0].numpy(force=True)
    return masses


def score(logits: Tensor, tokens: Tokens, found: Peaks, alternatives: Sequence[int]) -> list[Scored]:
    """Of one of `tokens` for each row of `logits` [rows, vocabulary], float32, with so many alternatives.

    `found` are the rows' peaks.
    """
    best, masses = found
    behind = np.zeros(len(tokens))  # how much less a token's logit is than the largest
    others = np.flatnonzero(tokens != best)
    if len(others):
        with np.errstate(invalid="ignore"):  # of a row that has no softmax, not a number
            behind[others] = _pick(logits, others, tokens) - _pick(logits, others, best)
    logprobs = (behind - masses).tolist()
    return [
        Scored(
            token, logprob, _others(logits[i], logits[i, best[i]].item(), masses[i], count) if count else ()
        )
        for i, (token, logprob, count) in enumerate(zip(tokens.tolist(), logprobs, alternatives, strict=True))
    ]


def _pick(logits: Tensor, rows: Tokens, tokens: Tokens) -> Values:
    """Of some `rows` of logits [.., vocabulary] the logit of each one's token: as many as `rows`."""
    places = (torch.from_numpy(each).to(logits.device) for each in (rows, tokens[rows]))
    picked: Values = logits[tuple(places)].numpy(force=True).astype(np.float64)
    return picked


def _others(logits: Tensor, peak: float, mass: float, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` best (token, log-probability) pairs of one row, [vocabulary]; equals by token."""
    row = logits.numpy(force=True)
    tokens = leaders(row, count)[:count]
    return tuple(zip(tokens.tolist(), ((row[tokens].astype(np.float64) - peak) - mass).tolist(), strict=True))


def most_probable(logprobs: Tensor, count: int) -> list[tuple[tuple[int, float], ...]]:
    """For each row [rows, vocabulary] its `count` best (token, log-probability) pairs; equals by token."""
    return [_others(row, 0.0, 0.0, count) if count else () for row in logprobs]


def leaders(row: Row, count: int) -> Tokens:
    """The tokens of at least the `count` largest of `row` [vocabulary], largest first, equals by token.

    Minus infinity never leads. Exact, and without sorting the row: it is cut into blocks, and as many of them
    have a maximum of at least the `count`-th largest, so what is smaller need not be looked at. A block is
    every n-th token, as those of a vocabulary's beginning are often all large.
    """
    maxima = _block_maxima(row, SPREAD * count)
    least = np.partition(maxima, -count)[-count] if count < len(maxima) else -np.inf
    tokens = np.flatnonzero(row >= least if least > -np.inf else row > least)
    return tokens[(-row[tokens]).argsort(kind="stable")]


def _block_maxima(row: Row, blocks: int) -> Row:
    """[blocks], or the row itself where that is no longer."""
    depth = len(row) // blocks
    if depth < 2:
        return row
    maxima: Row = row[: depth * blocks].reshape(depth, blocks).max(axis=0)
    rest = row[depth * blocks :]
    np.maximum(maxima[: len(rest)], rest, out=maxima[: len(rest)])
    return maxima

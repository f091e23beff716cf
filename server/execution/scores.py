"""What the model itself thought of tokens: log-probabilities before any penalty or temperature."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from server.scheduling.plan import Scored


def score(logits: Tensor, tokens: Sequence[int], alternatives: int) -> list[Scored]:
    """The scores of `tokens`, one for each row of `logits` [rows, vocabulary], float32."""
    logprobs = logits.log_softmax(dim=-1)
    own = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    others = most_probable(logprobs, alternatives)
    return [Scored(*each) for each in zip(tokens, own, others, strict=True)]


def most_probable(logprobs: Tensor, count: int) -> list[tuple[tuple[int, float], ...]]:
    """For each row [rows, vocabulary] its `count` best (token, log-probability) pairs; equals by token.

    `topk` leaves open which of several equals it takes, so it only says where to cut.
    """
    if count == 0:
        return [()] * len(logprobs)
    return [_most_probable_of(row, count) for row in logprobs]


def _most_probable_of(row: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    least = row.topk(min(count, len(row))).values[-1]
    tokens = (row >= least).nonzero()[:, 0].tolist()
    pairs = zip(tokens, row[tokens].tolist(), strict=True)
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count])

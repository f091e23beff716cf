"""What the branches of beam searches go on with: of all their next tokens, those of the best sums.

Log-probabilities are taken first, then biased, banned and penalized, and nothing makes them sum to one again:
as transformers has it, whose search this is (`scheduling/beams.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from server.execution.sampling import Row, adjust, adjusts
from server.execution.scores import most_probable
from server.scheduling.beams import first_scores
from server.scheduling.plan import Continuation, Scored, Slice


@dataclass(frozen=True, slots=True)
class _Search:
    """One of a step: its rows begin at `first`, one for each branch; a prompt has one for all of them."""

    piece: Slice
    first: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.piece.width)

    @property
    def branches(self) -> int:
        return len(self.scores)

    @property
    def scores(self) -> tuple[float, ...]:
        """Of each branch so far."""
        sequence = self.piece.sequence
        if sequence.search is not None:
            return tuple(branch.score for branch in sequence.search.branches)
        return first_scores(sequence.greatest_width)

    @property
    def wanted(self) -> int:
        """As many continuations as leave enough that grow, though every stop token is among the best."""
        return max(2, 1 + len(self.piece.sequence.stop_tokens)) * self.piece.sequence.greatest_width


def continue_beams(logits: Tensor, slices: Sequence[Slice]) -> dict[int, tuple[Continuation, ...]]:
    """By request id the best continuations of each search, best first; of equals, the first branch and token.

    logits [rows, vocabulary], float32: as many rows of each slice as it is wide. A result depends on the rows
    of its own slice only.
    """
    logprobs = logits.log_softmax(dim=-1)
    scores = _adjusted(logprobs, [row for piece in slices for row in _rows(piece)])
    continued = dict[int, tuple[Continuation, ...]]()
    for alike in _group(slices):
        sums = torch.stack([_sums(scores[one.rows], one.scores) for one in alike])
        values, places = _best(sums.flatten(1), alike[0].wanted)
        for one, best, where in zip(alike, values.tolist(), places, strict=True):
            continued[one.piece.sequence.id] = _continuations(one, logprobs[one.rows], best, where)
    return continued


def _group(slices: Sequence[Slice]) -> Iterator[list[_Search]]:
    """Searches with as many branches, that want as many continuations, are ranked together."""
    groups, first = defaultdict[tuple[int, int], list[_Search]](list), 0
    for piece in slices:
        one = _Search(piece, first)
        groups[one.branches, one.wanted].append(one)
        first += piece.width
    yield from groups.values()


def _rows(piece: Slice) -> Iterator[Row]:
    sequence = piece.sequence
    said = [[]] if sequence.search is None else [branch.tokens for branch in sequence.search.branches]
    for tokens in said:
        yield Row(
            sampling=sequence.sampling,
            tokens=[*sequence.tokens, *tokens],
            prompt_length=sequence.prompt_length,
            max_new_tokens=sequence.max_new_tokens,
            stop_tokens=sequence.stop_tokens,
        )


def _adjusted(logprobs: Tensor, rows: Sequence[Row]) -> Tensor:
    """[rows, vocabulary]; what is forced costs nothing, as there was no choice."""
    if not any(adjusts(row) for row in rows):
        return logprobs
    scores = logprobs.clone()
    for each, row in zip(scores, rows, strict=True):
        if adjusts(row):
            adjust(each, row)
        if row.forced is not None and 0 <= row.forced < len(each):
            each[row.forced] = 0.0
    return scores


def _sums(scores: Tensor, so_far: Sequence[float]) -> Tensor:
    """scores [rows, vocabulary] of one search -> [branches, vocabulary]; one row stands for all branches."""
    return scores + torch.tensor(so_far, dtype=scores.dtype, device=scores.device)[:, None]


def _best(sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of `sums` [n, m], or all, falling, and their places: both [n, count].

    `topk` leaves open which of several equals it takes, and in which order.
    """
    count = min(count, sums.shape[-1])
    values, places = sums.topk(min(count + 1, sums.shape[-1]), dim=-1)
    if values.shape[-1] > count:
        for i in (values[:, count - 1] == values[:, count]).nonzero()[:, 0].tolist():
            places[i, :count] = _largest(sums[i], values[i, count], count)
    places = places[:, :count].sort(dim=-1).values
    values, order = sums.gather(1, places).sort(dim=-1, descending=True, stable=True)
    return values, places.gather(1, order)


def _largest(row: Tensor, least: Tensor, count: int) -> Tensor:
    """The places of `count` values of `row` [m]: all above `least`, then the first that equal it."""
    above, equal = (row > least).nonzero()[:, 0], (row == least).nonzero()[:, 0]
    return torch.cat([above, equal[: count - len(above)]])


def _continuations(
    one: _Search, logprobs: Tensor, scores: Sequence[float], places: Tensor
) -> tuple[Continuation, ...]:
    """`places` [count] are in the rows of all branches, laid end to end; `logprobs` are the model's own."""
    vocabulary = logprobs.shape[-1]
    parents, tokens = places // vocabulary, places % vocabulary
    rows = parents.clamp(max=len(logprobs) - 1)
    own = logprobs[rows, tokens].tolist()
    others = most_probable(logprobs, one.piece.sequence.alternatives)
    return tuple(
        Continuation(parent, Scored(token, logprob, others[row]), score)
        for parent, row, token, logprob, score in zip(
            parents.tolist(), rows.tolist(), tokens.tolist(), own, scores, strict=True
        )
    )

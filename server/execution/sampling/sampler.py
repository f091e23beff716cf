"""Chooses a token for each row of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from server.execution.randomness import uniform
from server.execution.sampling import ranking
from server.execution.sampling.bans import restrict, restricts
from server.execution.sampling.candidates import Candidates, Undecided
from server.execution.sampling.mirostat import first_bound, next_bound, within_bound
from server.execution.sampling.row import Drawn, Row
from server.execution.sampling.stages import asked, change_row, follow, row_divisor, split
from server.execution.sampling.surveys import TORCH, Surveyor
from server.execution.sampling.whole import Whole
from server.execution.scores import largest, score
from server.request import Stage


class Choice(NamedTuple):
    token: int
    surprise: float | None  # mirostat's bound for the next one


def sample(logits: Tensor, rows: Seq[Row], surveyor: Surveyor = TORCH) -> list[Drawn]:
    """Choose a token for each row of `logits` [rows, vocabulary], float32, which are left alone.

    A result depends on its own row only: the same sequence may be there several times, one token further each
    time. Log-probabilities and alternatives are the model's own, before any bias, ban or penalty. Greedy rows
    that ask for nothing else cost an argmax. A row without any finite logit, which no parameter can bring
    about, yields what argmax does.
    """
    found = surveyor.peaks(logits)
    surprises = [row.surprise for row in rows]
    tokens = found.best.copy()
    for i, row in enumerate(rows):
        if row.sampling.greedy and adjusts(row):
            tokens[i] = _adjusted_best(logits[i], row)
    for i, choice in _draw_each(logits, rows, surveyor):
        tokens[i], surprises[i] = choice
    chosen = score(logits, tokens, found, [row.alternatives for row in rows])
    return [Drawn(*each) for each in zip(chosen, surprises, strict=True)]


def adjusts(row: Row) -> bool:
    """Whether a greedy row asks for anything but the largest logit."""
    return restricts(row) or bool(asked(row.sampling))


def adjust(scores: Tensor, row: Row) -> None:
    """Let bias, bans and penalties of a greedy row act in place on `scores` [vocabulary], float32."""
    _change(scores, row, asked(row.sampling))


def _adjusted_best(logits: Tensor, row: Row) -> int:
    scores = logits.clone()
    adjust(scores, row)
    return int(largest(scores[None])[0])


def _draw_each(logits: Tensor, rows: Seq[Row], surveyor: Surveyor) -> Iterator[tuple[int, Choice]]:
    """(index, choice) of the rows that are not greedy.

    One kind of work is done for all of them before the next: a processor that has it in its caches is twice
    as fast.
    """
    plans = {i: split(asked(row.sampling)) for i, row in enumerate(rows) if not row.sampling.greedy}
    divided = {i: row_divisor(rows[i], plan[0]) for i, plan in plans.items()}
    wholes = dict[int, Whole]()
    direct = {i: by for i, by in divided.items() if by is not None}
    if direct:
        found = surveyor.wholes(logits, [*direct], [*direct.values()], ranking.CANDIDATES)
        wholes.update(zip(direct, found, strict=True))
    changed = [i for i, by in divided.items() if by is None]
    if changed:
        scores = logits.index_select(0, torch.tensor(changed, device=logits.device))  # a copy
        for one, i in zip(scores, changed, strict=True):
            _change(one, rows[i], plans[i][0])
        places = range(len(changed))
        found = surveyor.wholes(scores, places, [1.0] * len(changed), ranking.CANDIDATES)
        wholes.update(zip(changed, found, strict=True))
    lists = {i: ranking.top(wholes[i]) for i in plans if wholes[i].possible}
    for i, (_, narrowing) in plans.items():
        yield i, _draw(lists.get(i), wholes[i], rows[i], narrowing)


def _draw(candidates: Candidates | None, whole: Whole, row: Row, stages: Seq[Stage]) -> Choice:
    if candidates is None:
        return Choice(whole.best, row.surprise)
    with suppress(Undecided):
        return _choose(follow(candidates, row, stages), row)
    return _choose(follow(ranking.everything(whole), row, stages), row)


def _change(scores: Tensor, row: Row, stages: Seq[Stage]) -> None:
    """Let bias, bans and `stages` act in place on `scores` [vocabulary]."""
    if restricts(row):
        restrict(scores, row)
    for stage in stages:
        change_row(scores, row, stage)


def _choose(candidates: Candidates, row: Row) -> Choice:
    """One of the candidates, by the row's number for this place."""
    sampling, mirostat = row.sampling, row.sampling.mirostat
    number = uniform(sampling.seed, sampling.sample, len(row.tokens))
    if mirostat is None:
        return Choice(int(candidates.tokens[candidates.choose(number)]), row.surprise)
    bound = first_bound(mirostat) if row.surprise is None else row.surprise
    candidates = within_bound(candidates, bound)
    index = candidates.choose(number)
    return Choice(int(candidates.tokens[index]), next_bound(mirostat, bound, candidates, index))

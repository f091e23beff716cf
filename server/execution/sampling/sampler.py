"""Chooses a token for each row of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from server.execution.randomness import uniform
from server.execution.sampling.bans import restrict, restricts
from server.execution.sampling.candidates import Candidates, Undecided
from server.execution.sampling.mirostat import first_bound, next_bound, within_bound
from server.execution.sampling.ranking import everything, top
from server.execution.sampling.row import Drawn, Row
from server.execution.sampling.stages import asked, change_row, follow, split
from server.execution.sampling.whole import Whole
from server.execution.scores import most_probable
from server.request import Stage
from server.scheduling.plan import Scored


@dataclass(frozen=True, slots=True)
class Choice:
    token: int
    surprise: float | None  # mirostat's bound for the next one


def sample(logits: Tensor, rows: Seq[Row]) -> list[Drawn]:
    """Choose a token for each row of `logits` [rows, vocabulary], float32, which are left alone.

    A result depends on its own row only: the same sequence may be there several times, one token further each
    time. Log-probabilities and alternatives are the model's own, before any bias, ban or penalty. Greedy rows
    that ask for nothing else cost an argmax. A row without any finite logit, which no parameter can bring
    about, yields what argmax does.
    """
    logprobs = logits.log_softmax(dim=-1)
    choices = [
        Choice(token, row.surprise) for token, row in zip(logits.argmax(dim=-1).tolist(), rows, strict=True)
    ]
    for i, choice in _choose_special(logits, logprobs, rows):
        choices[i] = choice
    tokens = torch.tensor([choice.token for choice in choices], device=logits.device)
    picked = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
    return [
        Drawn(Scored(choice.token, logprob, _alternatives(logprobs[i], row)), choice.surprise)
        for i, (choice, logprob, row) in enumerate(zip(choices, picked, rows, strict=True))
    ]


def adjusts(row: Row) -> bool:
    """Whether a greedy row asks for anything but the largest logit."""
    return restricts(row) or bool(asked(row.sampling))


def adjust(scores: Tensor, row: Row) -> None:
    """Let bias, bans and penalties of a greedy row act in place on `scores` [vocabulary], float32."""
    _change(scores, row, asked(row.sampling))


def _alternatives(logprobs: Tensor, row: Row) -> tuple[tuple[int, float], ...]:
    return most_probable(logprobs[None], row.alternatives)[0] if row.alternatives else ()


def _choose_special(logits: Tensor, logprobs: Tensor, rows: Seq[Row]) -> Iterator[tuple[int, Choice]]:
    """(index, choice) of the rows that want something else than the largest logit."""
    sampled = [i for i, row in enumerate(rows) if not row.sampling.greedy]
    if len(sampled) == len(rows):
        yield from enumerate(_draw_each(logits, logprobs, rows))
    elif sampled:
        some = _draw_each(logits[sampled], logprobs[sampled], [rows[i] for i in sampled])
        yield from zip(sampled, some, strict=True)
    for i, row in enumerate(rows):
        if row.sampling.greedy and adjusts(row):
            scores = logits[i].clone()
            adjust(scores, row)
            yield i, Choice(int(scores.argmax()), row.surprise)


def _draw_each(logits: Tensor, logprobs: Tensor, rows: Seq[Row]) -> Iterator[Choice]:
    """Draw from each row of `logits` and their `logprobs` [rows, vocabulary]."""
    plans = [split(asked(row.sampling)) for row in rows]
    if any(changes or restricts(row) for row, (changes, _) in zip(rows, plans, strict=True)):
        logits = logits.clone()
        for scores, row, (changes, _) in zip(logits, rows, plans, strict=True):
            _change(scores, row, changes)
        logprobs = logits.log_softmax(dim=-1)
    wholes = [Whole(*each) for each in zip(logits, logprobs, strict=True)]
    lists = top(logits, logprobs, wholes)
    for row, (_, stages), whole, candidates in zip(rows, plans, wholes, lists, strict=True):
        yield _draw(candidates, whole, row, stages)


def _change(scores: Tensor, row: Row, stages: Seq[Stage]) -> None:
    """Let bias, bans and `stages` act in place on `scores` [vocabulary]."""
    if restricts(row):
        restrict(scores, row)
    for stage in stages:
        change_row(scores, row, stage)


def _draw(candidates: Candidates | None, whole: Whole, row: Row, stages: Seq[Stage]) -> Choice:
    if candidates is not None:
        with suppress(Undecided):
            return _choose(follow(candidates, row, stages), row)
    if not whole.possible:
        return Choice(int(whole.scores.argmax()), row.surprise)
    return _choose(follow(everything(whole), row, stages), row)


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

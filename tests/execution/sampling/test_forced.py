"""Tokens that a text must begin or end with: nothing else is allowed there, whatever it is chosen by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from server.execution.sampling import Row, sample
from server.request import Sampling

LOGITS = torch.tensor([[0.0, 9.0, 1.0, 2.0, -1.0]])
GREEDY = Sampling(temperature=0.0, forced_first=4, forced_last=3)
SAMPLED = Sampling(temperature=2.0, seed=3, forced_first=4, forced_last=3)


def said(sampling: Sampling, *, generated: int, new: int | None = 5) -> int:
    row = Row(
        sampling=sampling,
        tokens=[0] * (2 + generated),
        prompt_length=2,
        max_new_tokens=new,
        stop_tokens=frozenset({4}),
    )
    (drawn,) = sample(LOGITS, [row])
    return drawn.scored.token


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_first_and_last_are_forced(sampling: Sampling) -> None:
    assert said(sampling, generated=0) == 4
    assert said(sampling, generated=4) == 3


def test_between_them_there_is_a_choice() -> None:
    assert [said(GREEDY, generated=generated) for generated in (1, 2, 3)] == [1, 1, 1]


def test_a_text_of_one_token_is_its_end() -> None:
    assert said(GREEDY, generated=0, new=1) == 3


def test_a_text_without_a_greatest_length_has_no_last_place() -> None:
    assert said(GREEDY, generated=4, new=None) == 1


def test_what_is_forced_wins_over_what_else_is_banned() -> None:
    """A stop token though it is too early, and a bad word."""
    banned = replace(GREEDY, min_new_tokens=3, bad_words=((4,),), allowed_tokens=(1, 2))
    assert said(banned, generated=0) == 4


def test_a_token_that_the_model_does_not_have_cannot_be_forced() -> None:
    assert said(Sampling(temperature=0.0, forced_first=99), generated=0) == 1


def test_the_log_probability_of_what_is_forced_is_the_models_own() -> None:
    row = Row(sampling=GREEDY, tokens=[0, 0], prompt_length=2)
    (drawn,) = sample(LOGITS, [row])
    assert drawn.scored.logprob == pytest.approx(float(LOGITS.log_softmax(-1)[0, 4]))

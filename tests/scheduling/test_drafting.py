"""Drafts: what is guessed, when it is not worth guessing, and that no guess shows in the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.request import FinishReason, Mirostat, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.drafting import LONGEST, Drafter, PromptLookup
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from server.scheduling.step_plan import DRAFTING_ROWS
from tests.scheduling.device import Device, Model, parrot, run_to_end, seconds, text_of


def make(
    model: Model, *, speculation: bool = True, max_batch_tokens: int = 64
) -> tuple[Scheduler, GenerationLane, Device]:
    lane = GenerationLane(
        "gpt",
        BlockPool(64, 4),
        max_batch_tokens=max_batch_tokens,
        max_sequences=8,
        speculation=speculation,
    )
    return Scheduler({"gpt": lane}), lane, Device(model)


def sing(tokens: object) -> int:
    """Says one token for ever."""
    return 5


def test_what_followed_last_time_is_guessed() -> None:
    assert PromptLookup().guess([1, 2, 3, 9, 1, 2, 3, 8, 7, 1, 2, 3], 3) == (8, 7, 1)


def test_two_tokens_are_enough_where_three_are_new() -> None:
    assert PromptLookup().guess([1, 2, 8, 9, 1, 2], 2) == (8, 9)


def test_a_text_new_to_itself_gives_no_guess() -> None:
    assert PromptLookup().guess([1, 2, 3, 4], 8) == ()


def test_a_short_period_is_continued_beyond_the_text() -> None:
    assert PromptLookup().guess([1, 2, 1, 2, 1, 2], 5) == (1, 2, 1, 2, 1)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.data())
def test_an_index_that_grows_with_the_text_guesses_as_a_search_of_all_of_it(
    tokens: list[int], data: st.DataObject
) -> None:
    lookup, length = PromptLookup(), 0
    while length < len(tokens):
        length = data.draw(st.integers(length + 1, len(tokens)))
        guess = lookup.guess(tokens[:length], 1)
    assert guess == _search(tokens)


def _search(tokens: list[int]) -> tuple[int, ...]:
    for n in (3, 2):
        for place in range(len(tokens) - 1, n - 1, -1):
            if tokens[place - n : place] == tokens[-n:]:
                return (tokens[place],)
    return ()


@pytest.mark.parametrize("speculation", [True, False])
def test_a_text_is_the_same_with_and_without_drafts(speculation: bool) -> None:
    scheduler, lane, device = make(parrot, speculation=speculation)
    only = Sequence(id=1, tokens=[1, 2, 3], max_new_tokens=90)
    scheduler.generate("gpt", only)
    run_to_end(scheduler, device)
    assert only.tokens == text_of(only, parrot)
    assert (lane.drafted_tokens > lane.accepted_tokens > 0) == speculation


def test_a_text_that_repeats_itself_takes_a_fraction_of_the_steps() -> None:
    scheduler, lane, device = make(sing)
    scheduler.generate("gpt", Sequence(id=1, tokens=[5, 5, 5], max_new_tokens=61))
    steps = 0
    while (step := scheduler.next_step()) is not None:
        scheduler.apply(step, device.run(step), seconds(step))
        steps += 1
    assert steps <= 1 + -(-60 // (LONGEST + 1)) + 1  # the prompt; full drafts but the first
    assert lane.accepted_tokens == lane.drafted_tokens


def test_a_text_whose_guesses_fail_is_hardly_ever_guessed_at() -> None:
    drafter, drafted = Drafter(), 0
    for _ in range(300):
        draft = drafter.draft([1, 2, 3, 1, 2, 3], 8)
        drafted += len(draft)
        if draft:
            drafter.learn(len(draft), 0)
    assert drafted < 20


def test_nothing_stands_behind_a_stop_token() -> None:
    scheduler, _, device = make(lambda tokens: tokens[-3])
    only = Sequence(id=1, tokens=[5, 6, 7] * 4, max_new_tokens=40, stop_tokens=frozenset({6}))
    scheduler.generate("gpt", only)
    run_to_end(scheduler, device)
    assert only.tokens == [5, 6, 7] * 4 + [5, 6]
    assert only.finish_reason is FinishReason.EOS
    assert only.appended == 1


def test_no_more_is_drafted_than_is_wanted_fits_and_is_in_the_budget() -> None:
    scheduler, _, device = make(sing, max_batch_tokens=6)
    scheduler.generate("gpt", only := Sequence(id=1, tokens=[5, 5, 5], max_new_tokens=20))
    while (step := scheduler.next_step()) is not None:
        assert step.num_tokens <= 6
        scheduler.apply(step, device.run(step), seconds(step))
    assert only.generated == 20


@pytest.mark.parametrize(
    "alone",
    [
        Sequence(id=1, tokens=[5, 5, 5], max_new_tokens=8, constrained=True),
        Sequence(id=1, tokens=[5, 5, 5], max_new_tokens=8, sampling=Sampling(mirostat=Mirostat())),
    ],
    ids=["constrained", "mirostat"],
)
def test_what_follows_each_token_takes_them_one_by_one(alone: Sequence) -> None:
    scheduler, lane, device = make(sing)
    scheduler.generate("gpt", alone)
    run_to_end(scheduler, device)
    assert alone.generated == 8
    assert lane.drafted_tokens == 0


def test_many_streams_do_not_draft() -> None:
    scheduler, _, device = make(sing)
    for id_ in range(DRAFTING_ROWS + 1):
        scheduler.generate("gpt", Sequence(id=id_, tokens=[5, 5, 5], max_new_tokens=8))
    while (step := scheduler.next_step()) is not None:
        assert isinstance(step, DecodeStep)
        assert not any(piece.draft for piece in step.slices)
        scheduler.apply(step, device.run(step), seconds(step))

"""Beam searches: what branches share, what is copied, when it is over; how they run beside others."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest

from server.request import Beams, EarlyStopping, FinishReason
from server.scheduling.beams import FLOOR, Search, first_scores
from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import Continuation, DecodeStep, Scored
from server.scheduling.rotation import choose_rows
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from tests.scheduling.device import Device, counter, parrot, run_to_end, seconds, text_of

PROMPT = list(range(100, 110))  # two full blocks of four, and two tokens
STOP = 1


def make(
    num_blocks: int = 40, *, max_batch_tokens: int = 64, max_sequences: int = 4
) -> tuple[Scheduler, GenerationLane, Device]:
    lane = GenerationLane(
        "gpt", BlockPool(num_blocks, 4), max_batch_tokens=max_batch_tokens, max_sequences=max_sequences
    )
    return Scheduler({"gpt": lane}), lane, Device(parrot)


def sequence(
    id_: int, tokens: Seq[int] = PROMPT, *, width: int = 3, new: int = 8, tenant: str = "", priority: int = 0
) -> Sequence:
    return Sequence(
        id=id_,
        tokens=list(tokens),
        max_new_tokens=new,
        beams=Beams(width=width),
        tenant=tenant,
        priority=priority,
    )


def plan(scheduler: Scheduler) -> DecodeStep:
    planned = scheduler.next_step()
    assert isinstance(planned, DecodeStep)
    return planned


def step(scheduler: Scheduler, device: Device) -> DecodeStep:
    planned = plan(scheduler)
    scheduler.apply(planned, device.run(planned), seconds(planned))
    return planned


def search(
    *,
    width: int = 2,
    penalty: float = 1.0,
    stopping: EarlyStopping = EarlyStopping.WHEN_UNLIKELY,
    new: int = 9,
) -> Search:
    beams = Beams(width=width, length_penalty=penalty, early_stopping=stopping)
    return Search(beams, table=(), stop_tokens=frozenset({STOP}), max_new_tokens=new)


def go_on(one: Search, *continuations: tuple[int, int, float]) -> None:
    """By (parent, token, score), best first."""
    one.advance([Continuation(parent, Scored(token, -1.0), score) for parent, token, score in continuations])


def said(one: Search) -> list[int]:
    return [scored.token for scored in one.best]


def test_only_the_first_of_the_equal_branches_may_win_at_first() -> None:
    assert first_scores(3) == (0.0, FLOOR, FLOOR)


def test_a_text_that_ends_outside_the_best_is_forgotten() -> None:
    """What stands behind the best `width` is there in place of those that end, and for nothing else."""
    one = search()
    go_on(one, (0, 7, -1.0), (0, 8, -2.0), (0, STOP, -3.0), (0, 9, -4.0))
    assert [branch.tokens for branch in one.branches] == [[7], [8]]
    go_on(one, (0, STOP, -1.1), (0, STOP, -1.2), (1, 5, -2.0), (0, 6, -3.0))
    assert [branch.tokens for branch in one.branches] == [[8, 5], [7, 6]]
    assert said(one) == [7, STOP]


def test_at_once_a_search_is_over_when_as_many_texts_as_beams_have_ended() -> None:
    """Though another could still become better than the worse of the two."""
    for stopping, over in ((EarlyStopping.AT_ONCE, True), (EarlyStopping.WHEN_UNLIKELY, False)):
        one = search(stopping=stopping)
        go_on(one, (0, 7, -0.1), (0, 8, -0.2), (0, 9, -9.0))
        go_on(one, (0, STOP, -3.0), (1, STOP, -4.0), (0, 5, -3.9), (1, 6, -4.2))
        assert bool(one.best) is over


def test_who_never_stops_early_thinks_of_the_greatest_length() -> None:
    """With so many tokens to come, -4.1 in all would be the better text."""
    for stopping, over in ((EarlyStopping.WHEN_UNLIKELY, True), (EarlyStopping.NEVER, False)):
        one = search(stopping=stopping)
        go_on(one, (0, 7, -0.1), (0, 8, -0.2), (0, 9, -9.0))
        go_on(one, (0, STOP, -3.0), (1, STOP, -4.0), (0, 5, -4.1), (1, 6, -4.2))
        assert bool(one.best) is over


def test_who_prefers_short_texts_thinks_of_no_greater_length() -> None:
    one = search(penalty=-1.0, stopping=EarlyStopping.NEVER)
    go_on(one, (0, 7, -0.1), (0, 8, -0.2), (0, 9, -9.0))
    go_on(one, (0, STOP, -3.0), (1, STOP, -4.0), (0, 5, -3.9), (1, 6, -4.2))
    assert not one.best
    go_on(one, (0, 5, -4.1), (1, 6, -4.3), (0, 7, -4.4))  # thrice that is worse than twice -4.0
    assert said(one) == [7, STOP]


@pytest.mark.parametrize(("penalty", "winner"), [(0.0, [STOP]), (2.0, [7, STOP])])
def test_a_length_penalty_prefers_long_texts(penalty: float, winner: list[int]) -> None:
    one = search(penalty=penalty, stopping=EarlyStopping.AT_ONCE)
    go_on(one, (0, STOP, -1.0), (0, 7, -1.5), (0, 8, -1.6))
    go_on(one, (0, STOP, -2.0), (0, 6, -2.5), (1, 5, -2.6))
    assert said(one) == winner


def test_at_the_greatest_length_every_text_ends() -> None:
    one = search(new=2)
    go_on(one, (0, 7, -1.0), (0, 8, -2.0), (0, 9, -3.0), (0, 6, -4.0))
    go_on(one, (1, 7, -2.1), (0, 8, -2.2), (0, 9, -3.0), (0, 6, -4.0))
    assert said(one) == [8, 7]


def test_a_search_without_a_number_to_go_by_ends() -> None:
    """As a model of damaged weights would have it."""
    one = search()
    go_on(one, (0, 7, float("nan")), (0, 8, float("nan")))
    assert said(one) == [7]


@pytest.mark.parametrize("width", [1, 9])
def test_there_are_two_to_eight_beams(width: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 8 beams, not {width}"):
        Beams(width=width)


@pytest.mark.parametrize("penalty", [-11.0, float("nan")])
def test_a_length_penalty_is_a_small_number(penalty: float) -> None:
    with pytest.raises(ValueError, match="between -10 and 10"):
        Beams(width=2, length_penalty=penalty)


@pytest.mark.parametrize("penalty", [-10.0, 10.0])
def test_no_length_penalty_leads_out_of_numbers(penalty: float) -> None:
    one = Search(
        Beams(width=2, length_penalty=penalty), table=(), stop_tokens=frozenset(), max_new_tokens=100_000
    )
    one.generated = 99_999
    go_on(one, (0, 7, -1e6), (0, 8, -2e6))
    assert said(one) == [7]


def test_branches_share_their_prompt_and_copy_the_block_that_they_go_on_in() -> None:
    scheduler, lane, device = make()
    scheduler.generate("gpt", one := sequence(1))
    step(scheduler, device)
    assert len(one.blocks) == 3
    (piece,) = plan(scheduler).slices
    assert (piece.start, piece.count, piece.width, piece.num_tokens) == (10, 1, 3, 3)
    shared = one.blocks[:2]
    assert one.search is not None
    assert [branch.table[:2] for branch in one.search.branches] == [shared] * 3
    assert [read for read, _ in piece.copies] == [one.blocks[2]] * 2  # the first branch keeps it
    assert lane.blocks.num_free == 40 - 5


def test_where_the_prompt_fills_its_blocks_nothing_is_copied() -> None:
    scheduler, lane, device = make()
    scheduler.generate("gpt", sequence(1, PROMPT[:8]))
    step(scheduler, device)
    (piece,) = plan(scheduler).slices
    assert piece.copies == ()
    assert lane.blocks.num_free == 40 - 5


def test_a_search_is_answered_whole_and_every_block_comes_back() -> None:
    scheduler, lane, device = make()
    scheduler.generate("gpt", one := sequence(1))
    while one.finish_reason is None:
        assert one.generated == 0
        step(scheduler, device)
    assert one.tokens == text_of(one, parrot)
    assert (one.appended, one.finish_reason) == (one.generated, FinishReason.LENGTH)
    assert one.search is not None
    assert [scored.token for scored in one.search.best] == one.tokens[10:]
    assert lane.blocks.num_free == 40


def test_a_search_runs_whole_or_not_at_all() -> None:
    """Two of three rows each do not fit into five, and take turns."""
    scheduler, _, device = make(max_batch_tokens=5)
    searches = [sequence(id_, [id_], new=9) for id_ in (1, 2)]
    for one in searches:
        scheduler.generate("gpt", one)
    step(scheduler, device)
    widths = [
        [(piece.sequence.id, piece.width) for piece in step(scheduler, device).slices] for _ in range(4)
    ]
    assert widths == [[(1, 3)], [(2, 3)], [(1, 3)], [(2, 3)]]
    run_to_end(scheduler, device)
    assert [one.tokens for one in searches] == [text_of(one, parrot) for one in searches]


def test_a_search_beside_streams_gets_its_turn() -> None:
    """Though no step has room for it and all of them."""
    scheduler, _, device = make(100, max_batch_tokens=6, max_sequences=8)
    for id_ in range(4):
        scheduler.generate("gpt", Sequence(id=id_, tokens=[id_], max_new_tokens=60))
    step(scheduler, device)
    scheduler.generate("gpt", wide := sequence(9, [9], width=4, priority=1))
    ended = run_to_end(scheduler, device)
    assert ended[0] is wide


def test_a_preempted_search_begins_anew_and_ends_alike() -> None:
    scheduler, lane, device = make(num_blocks=14)
    scheduler.generate("gpt", one := sequence(1))
    for _ in range(3):
        step(scheduler, device)
    assert one.search is not None
    scheduler.generate("gpt", Sequence(id=2, tokens=list(range(44)), max_new_tokens=3, priority=1))
    step(scheduler, device)
    assert (lane.preemptions, one.held, one.computed) == (1, [], 0)
    assert one.search is None
    run_to_end(scheduler, device)
    assert one.tokens == text_of(one, parrot)


@pytest.mark.parametrize("length", [8, 10])
def test_a_search_gets_its_seat_only_where_its_branches_can_begin(length: int) -> None:
    """In the next step it has five blocks, though the prompt takes two or three."""
    scheduler, lane, device = make(num_blocks=8)
    scheduler.generate("gpt", Sequence(id=1, tokens=list(range(16)), max_new_tokens=1))
    scheduler.generate("gpt", sequence(2, PROMPT[:length], new=2))
    assert step(scheduler, device).ids == [1]
    assert lane.num_waiting == 1


def test_what_could_never_fit_with_all_its_branches_is_refused() -> None:
    scheduler, lane, device = make(num_blocks=11)
    scheduler.generate("gpt", sequence(1, new=10))  # two blocks, and three on each of three branches
    with pytest.raises(ValueError, match="21 tokens on 3 beams can never fit into 44 of KV cache"):
        scheduler.generate("gpt", sequence(2, new=11))
    run_to_end(scheduler, device)
    assert lane.preemptions == 0


def test_more_beams_than_a_step_has_tokens_are_refused() -> None:
    scheduler, _, _ = make(max_batch_tokens=3)
    with pytest.raises(ValueError, match="4 beams can never fit into a step of 3 tokens"):
        scheduler.generate("gpt", sequence(1, width=4))


def test_a_prompt_that_is_only_scored_has_no_search() -> None:
    scheduler, _, device = make(num_blocks=3)
    scheduler.generate("gpt", one := sequence(1, new=0))
    run_to_end(scheduler, device)
    assert (one.search, one.finish_reason) == (None, FinishReason.LENGTH)


def test_a_searched_prompt_is_found_again_and_what_was_searched_is_not() -> None:
    scheduler, _, device = make()
    scheduler.generate("gpt", one := sequence(1))
    run_to_end(scheduler, device)
    scheduler.generate("gpt", again := Sequence(id=2, tokens=one.tokens, max_new_tokens=1))
    run_to_end(scheduler, device)
    assert again.cached == 8


def test_rows_are_shared_by_how_many_there_are_of_each_search() -> None:
    """Of six rows each has three: the search of three whole, and three of the streams."""
    wide = sequence(0, tenant="ann")
    wide.search = search(width=3)
    streams = [Sequence(id=id_, tokens=[1], max_new_tokens=9, tenant="bob") for id_ in range(1, 9)]
    for id_, stream in enumerate(streams):
        stream.served = id_ - 9
    assert choose_rows([wide, *streams], 6) == [*streams[:3], wide]


def test_a_search_wider_than_its_share_has_its_turn_when_it_has_waited_longest() -> None:
    wide = sequence(0, tenant="ann", width=8)
    wide.search = search(width=8)
    wide.served = -1
    streams = [Sequence(id=id_, tokens=[1], max_new_tokens=9, tenant="bob") for id_ in range(1, 9)]
    assert choose_rows([*streams, wide], 4) == [wide]
    wide.served = 1
    assert choose_rows([*streams, wide], 4) == streams[:2]


def test_nothing_is_drafted_for_a_search() -> None:
    scheduler, lane, device = make()
    scheduler.generate("gpt", sequence(1, [1, 2, 3] * 5))
    run_to_end(scheduler, device)
    assert lane.drafted_tokens == 0


def test_streams_do_not_notice_a_search() -> None:
    scheduler, _, _ = make(max_batch_tokens=9)
    stream = Sequence(id=1, tokens=[5], max_new_tokens=12)
    scheduler.generate("gpt", stream)
    scheduler.generate("gpt", sequence(2))
    run_to_end(scheduler, Device(counter))
    assert stream.tokens == text_of(stream, counter)

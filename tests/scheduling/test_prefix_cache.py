"""A text that was computed is found again: by whom, how much of it, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep
from server.scheduling.prefix import Prefix
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from tests.scheduling.device import Device, counter, run_to_end, seconds, text_of

PROMPT = list(range(100, 110))  # two full blocks of four, and two tokens


def make(num_blocks: int = 20, *, max_batch_tokens: int = 64) -> tuple[Scheduler, GenerationLane, Device]:
    lane = GenerationLane("gpt", BlockPool(num_blocks, 4), max_batch_tokens=max_batch_tokens, max_sequences=4)
    return Scheduler({"gpt": lane}), lane, Device()


def sequence(
    id_: int,
    tokens: list[int],
    *,
    new: int = 2,
    salt: bytes = b"",
    priority: int = 0,
    prompt_alternatives: int | None = None,
) -> Sequence:
    return Sequence(
        id=id_,
        tokens=list(tokens),
        max_new_tokens=new,
        salt=salt,
        priority=priority,
        prompt_alternatives=prompt_alternatives,
    )


def step(scheduler: Scheduler, device: Device) -> DecodeStep:
    planned = scheduler.next_step()
    assert isinstance(planned, DecodeStep)
    scheduler.apply(planned, device.run(planned), seconds(planned))
    return planned


def chain(pool: BlockPool, tokens: list[int], salt: bytes = b"") -> list[Prefix]:
    named = list[Prefix]()
    pool.name(named, tokens, salt, length=len(tokens))
    return named


def test_blocks_that_victims_share_are_counted_once_all_of_them_have_gone() -> None:
    """Each alone would free two of the six that are missing; both together free eight."""
    scheduler, lane, device = make(num_blocks=10)
    shared = list(range(100, 124))
    for id_ in (1, 2):
        scheduler.generate("gpt", sequence(id_, [*shared, id_], new=6))
        step(scheduler, device)
    assert (lane.num_running, lane.blocks.num_free) == (2, 2)
    scheduler.generate("gpt", sequence(3, list(range(200, 230)), priority=1))
    assert step(scheduler, device).ids == [3]


def test_nobody_stands_up_for_blocks_that_the_newcomer_will_hold_itself() -> None:
    """It has found six of the victim's seven, so that these give it no room for the rest of its prompt."""
    scheduler, lane, device = make(num_blocks=12)
    shared = list(range(100, 124))
    scheduler.generate("gpt", sequence(1, list(range(300, 316)), new=3, priority=2))
    step(scheduler, device)
    scheduler.generate("gpt", sequence(2, [*shared, 1], new=2))
    step(scheduler, device)
    assert (lane.num_running, lane.blocks.num_free) == (2, 0)
    scheduler.generate("gpt", sequence(3, [*shared, *range(200, 216)], priority=1))
    step(scheduler, device)
    assert lane.preemptions == 0


def test_a_prompt_that_was_computed_is_found_again() -> None:
    scheduler, lane, device = make()
    scheduler.generate("gpt", sequence(1, PROMPT))
    run_to_end(scheduler, device)
    scheduler.generate("gpt", again := sequence(2, PROMPT))
    first = step(scheduler, device).slices[0]
    assert (first.start, first.count) == (8, 2)
    assert again.cached == lane.cached_tokens == 8
    run_to_end(scheduler, device)
    assert again.tokens == text_of(again, counter)


def test_an_answer_is_found_again_as_part_of_the_next_prompt() -> None:
    scheduler, _, device = make()
    scheduler.generate("gpt", first := sequence(1, PROMPT, new=8))
    run_to_end(scheduler, device)
    scheduler.generate("gpt", turn := sequence(2, [*first.tokens, 7]))
    step(scheduler, device)
    assert turn.cached == 16  # of 18: the last token of an answer is never computed


def test_at_least_one_token_is_left_to_compute() -> None:
    scheduler, _, device = make()
    scheduler.generate("gpt", sequence(1, PROMPT[:8]))
    run_to_end(scheduler, device)
    scheduler.generate("gpt", again := sequence(2, PROMPT[:8]))
    step(scheduler, device)
    assert again.cached == 4


def test_another_salt_finds_nothing() -> None:
    scheduler, _, device = make()
    scheduler.generate("gpt", sequence(1, PROMPT, salt=b"mine"))
    run_to_end(scheduler, device)
    scheduler.generate("gpt", other := sequence(2, PROMPT, salt=b"yours"))
    step(scheduler, device)
    assert other.cached == 0


def test_a_prompt_to_be_scored_is_computed_though_it_is_known() -> None:
    scheduler, _, device = make()
    scheduler.generate("gpt", sequence(1, PROMPT))
    run_to_end(scheduler, device)
    scheduler.generate("gpt", scored := sequence(2, PROMPT, prompt_alternatives=0))
    assert step(scheduler, device).slices[0].start == 0
    assert (scored.cached, scored.scored) == (0, 9)


def test_what_was_unused_longest_is_forgotten_first_and_the_tail_before_the_head() -> None:
    pool = BlockPool(4, 1)
    for tokens in ([1, 2], [3, 4]):
        blocks = pool.take(2)
        assert blocks is not None
        for prefix, block in zip(chain(pool, tokens), blocks, strict=True):
            pool.remember(prefix, block)
        pool.give_back(blocks)
    assert pool.num_free == pool.num_idle == 4
    pool.take(1)
    assert len(pool.find(chain(pool, [1, 2]))) == 1
    pool.take(1)
    assert len(pool.find(chain(pool, [1, 2]))) == 0
    assert len(pool.find(chain(pool, [3, 4]))) == 2


def test_a_block_that_others_hold_is_not_free_until_the_last_lets_go() -> None:
    pool = BlockPool(2, 1)
    blocks = pool.take(1)
    assert blocks is not None
    pool.hold(blocks)
    pool.give_back(blocks)
    assert (pool.num_free, pool.holders(blocks[0])) == (1, 1)
    pool.give_back(blocks)
    assert pool.num_free == 2
    with pytest.raises(AssertionError, match="twice"):
        pool.give_back(blocks)


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=20, max_size=60))
def test_two_texts_of_one_name_are_never_taken_for_each_other(texts: list[list[int]]) -> None:
    """Names of one byte: among so many they collide."""
    pool = BlockPool(12, 1, name_bytes=1)
    holds = dict[int, tuple[int, ...]]()
    for text in texts:
        named = chain(pool, text)
        found = pool.find(named)
        for end, block in enumerate(found, start=1):
            assert holds[block] == tuple(text[:end])
        pool.hold(found)
        taken = pool.take(3 - len(found))
        assert taken is not None
        for end, block in enumerate(taken, start=len(found) + 1):
            holds[block] = tuple(text[:end])
            pool.remember(named[end - 1], block)
        pool.give_back([*found, *taken])


def test_a_tail_is_found_though_its_head_was_computed_anew() -> None:
    pool = BlockPool(3, 1)
    named = chain(pool, [1, 2])
    head, tail = pool.take(1), pool.take(1)
    assert head is not None
    assert tail is not None
    pool.remember(named[0], head[0])
    pool.remember(named[1], tail[0])
    pool.give_back(head)
    pool.take(2)  # the head is forgotten, the tail still held
    pool.remember(chain(pool, [1])[0], head[0])
    assert pool.find(chain(pool, [1, 2])) == [head[0], tail[0]]


def test_a_preempted_sequence_finds_its_own_blocks() -> None:
    scheduler, lane, device = make(6, max_batch_tokens=32)
    old, young = sequence(1, PROMPT[:6], new=10), sequence(2, PROMPT[2:8], new=10)
    scheduler.generate("gpt", old)
    scheduler.generate("gpt", young)
    run_to_end(scheduler, device)
    assert lane.preemptions == 1
    assert (old.tokens, young.tokens) == (text_of(old, counter), text_of(young, counter))
    assert device.computed_tokens < len(old.tokens) + 2 * len(young.tokens) - 4
    assert young.cached == 0  # of the prompt, when it was first admitted


def test_samples_of_one_prompt_compute_it_once() -> None:
    scheduler, lane, device = make(max_batch_tokens=6)
    for id_ in range(3):
        scheduler.generate("gpt", sequence(id_, PROMPT, new=1))
    assert step(scheduler, device).ids == [0]
    assert len(run_to_end(scheduler, device)) == 3
    assert device.computed_tokens == 10 + 2 + 2
    assert lane.cached_tokens == 16


def test_when_the_one_computing_leaves_the_waiting_do_it_themselves() -> None:
    scheduler, _, device = make(max_batch_tokens=4)
    for id_ in range(3):
        scheduler.generate("gpt", sequence(id_, PROMPT, new=1))
    step(scheduler, device)
    scheduler.abort(0)
    assert {one.id for one in run_to_end(scheduler, device)} == {1, 2}


def test_nobody_waits_for_one_of_lower_priority() -> None:
    scheduler, _, device = make(max_batch_tokens=4)
    scheduler.generate("gpt", sequence(1, PROMPT, new=1))
    step(scheduler, device)
    scheduler.generate("gpt", sequence(2, PROMPT, new=1, priority=1))
    assert step(scheduler, device).ids == [2]

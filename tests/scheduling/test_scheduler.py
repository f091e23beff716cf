"""The scheduler, driven to the end by random traffic; and the smallest cases of what it promises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.request import EmbedWork, FinishReason
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Encoded, EncodeStep, Results, Sampled, Scored, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage, Sequence

TOKEN = 7


def make_scheduler(
    blocks: BlockPool | None = None, *, max_batch_tokens: int = 64, max_sequences: int = 4
) -> tuple[Scheduler, GenerationLane]:
    lane = GenerationLane(
        "gpt", blocks or BlockPool(20, 4), max_batch_tokens=max_batch_tokens, max_sequences=max_sequences
    )
    bert = EncodingLane("bert", max_batch_tokens=max_batch_tokens, max_passages=8)
    return Scheduler({"gpt": lane, "bert": bert}), lane


def sequence(id_: int, tokens: int = 3, new: int = 4, stop: frozenset[int] = frozenset()) -> Sequence:
    return Sequence(id=id_, tokens=[1] * tokens, max_new_tokens=new, stop_tokens=stop)


def passage(id_: int, tokens: int = 3) -> Passage:
    return Passage(id=id_, tokens=(1,) * tokens, work=EmbedWork())


def results(step: Step) -> Results:
    """What a device would answer: one token for each slice that samples, a vector for each passage."""
    if isinstance(step, EncodeStep):
        return Results(encoded={id_: Encoded(vector=(1.0,)) for id_ in step.ids})
    return Results(sampled={p.sequence.id: Sampled((Scored(TOKEN, -1.0),)) for p in step.slices if p.samples})


def run_to_end(scheduler: Scheduler, *, budget: int) -> list[int]:
    done = list[int]()
    for _ in range(10_000):
        step = scheduler.next_step()
        if step is None:
            return done
        assert 0 < step.num_tokens <= budget
        assert len(set(step.ids)) == len(step.ids)
        done += [item.id for item in scheduler.apply(step, results(step), 0.01)]
    raise AssertionError("the scheduler never came to rest")


traffic = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12), st.booleans()), max_size=12)


@settings(max_examples=200, deadline=None)
@given(traffic, st.integers(40, 64), st.integers(1, 8), st.integers(1, 5))
def test_every_request_finishes_and_every_block_comes_back(
    shapes: list[tuple[int, int, bool]], budget: int, block_size: int, max_sequences: int
) -> None:
    blocks = BlockPool(-(-52 // block_size), block_size)  # room for one longest request, barely
    scheduler, _ = make_scheduler(blocks, max_batch_tokens=budget, max_sequences=max_sequences)
    sequences = list[Sequence]()
    for id_, (tokens, new, encodes) in enumerate(shapes):
        if encodes:
            scheduler.encode("bert", passage(id_, tokens))
        else:
            sequences.append(sequence(id_, tokens, new))
            scheduler.generate("gpt", sequences[-1])
    assert sorted(run_to_end(scheduler, budget=budget)) == list(range(len(shapes)))
    assert all(len(s.tokens) == s.prompt_length + s.max_new_tokens for s in sequences)
    assert blocks.num_free == blocks.num_blocks


def test_a_long_prompt_runs_in_chunks() -> None:
    scheduler, _ = make_scheduler(max_batch_tokens=8)
    scheduler.generate("gpt", sequence(1, tokens=20))
    counts = []
    for _ in range(3):
        step = scheduler.next_step()
        assert step is not None
        counts.append(step.num_tokens)
        scheduler.apply(step, results(step), 0.01)
    assert counts == [8, 8, 4]


def test_a_decoding_stream_never_waits_for_an_older_long_prompt() -> None:
    scheduler, lane = make_scheduler(max_batch_tokens=4)
    scheduler.generate("gpt", sequence(1, tokens=3, new=1))
    scheduler.generate("gpt", long := sequence(2, tokens=40))
    step = scheduler.next_step()
    assert step is not None
    scheduler.apply(step, results(step), 0.01)  # 1 is done, 2 has begun
    scheduler.generate("gpt", sequence(3, tokens=1))
    assert lane.num_running == 1
    while long.pending > 4:
        step = scheduler.next_step()
        assert isinstance(step, DecodeStep)
        scheduler.apply(step, results(step), 0.01)
    step = scheduler.next_step()
    assert isinstance(step, DecodeStep)
    scheduler.apply(step, results(step), 0.01)
    for _ in range(3):
        step = scheduler.next_step()
        assert isinstance(step, DecodeStep)
        assert set(step.ids) == {2, 3}
        scheduler.apply(step, results(step), 0.01)


def test_an_encoder_batch_and_a_decode_step_take_turns() -> None:
    scheduler, _ = make_scheduler()
    scheduler.generate("gpt", sequence(1))
    for id_ in range(2, 12):  # two batches of at most eight
        scheduler.encode("bert", passage(id_))
    models = []
    for _ in range(4):
        step = scheduler.next_step()
        assert step is not None
        models.append(step.model)
        scheduler.apply(step, results(step), 0.01)
    assert models == ["gpt", "bert", "gpt", "bert"]


def test_a_passage_longer_than_the_quantum_runs_alone() -> None:
    lane = EncodingLane("bert", max_batch_tokens=8, max_passages=8)
    for id_, tokens in ((1, 4), (2, 20), (3, 4)):
        lane.add(passage(id_, tokens))
    assert [step.ids for step in iter(lane.next_step, None)] == [[1], [2], [3]]


def test_the_youngest_is_preempted_and_still_finishes_with_its_own_text() -> None:
    scheduler, lane = make_scheduler(BlockPool(4, 4))
    first, second = sequence(1, tokens=6, new=8), sequence(2, tokens=6, new=8)
    scheduler.generate("gpt", first)
    scheduler.generate("gpt", second)
    assert run_to_end(scheduler, budget=64) == [1, 2]
    assert lane.preemptions > 0
    assert second.tokens == [1] * 6 + [TOKEN] * 8


def test_a_sequence_that_can_never_fit_is_refused() -> None:
    _, lane = make_scheduler(BlockPool(2, 4))
    with pytest.raises(ValueError, match="9 tokens can never fit into 8"):
        lane.add(sequence(1, tokens=5, new=4))


@pytest.mark.parametrize(
    ("stop", "reason"), [({TOKEN}, FinishReason.EOS), ({TOKEN + 1}, FinishReason.LENGTH)], ids=str
)
def test_a_stop_token_ends_the_text_and_otherwise_its_length_does(
    stop: set[int], reason: FinishReason
) -> None:
    scheduler, _ = make_scheduler()
    only = sequence(1, new=4, stop=frozenset(stop))
    scheduler.generate("gpt", only)
    run_to_end(scheduler, budget=64)
    assert only.finish_reason is reason
    assert len(only.tokens) == 3 + (1 if reason is FinishReason.EOS else 4)


def test_a_block_is_never_given_back_twice() -> None:
    blocks = BlockPool(2, 4)
    taken = blocks.take(1)
    assert taken is not None
    blocks.give_back(taken)
    with pytest.raises(AssertionError, match="twice"):
        blocks.give_back(taken)


def test_deadlines_of_requests_that_have_ended_are_not_kept() -> None:
    scheduler, _ = make_scheduler()
    for id_ in range(1000):
        one = sequence(id_, tokens=1, new=1)
        one.deadline = 86_400.0
        scheduler.generate("gpt", one)
        run_to_end(scheduler, budget=64)
    assert len(scheduler._deadlines) < 100


def test_a_deadline_is_kept_however_many_others_have_ended() -> None:
    scheduler, _ = make_scheduler()
    scheduler.encode("bert", Passage(id=1, tokens=(1,), work=EmbedWork(), deadline=40.0))
    last = sequence(2)
    last.deadline = 50.0
    scheduler.generate("gpt", last)
    for id_ in range(10, 300):
        scheduler.encode("bert", Passage(id=id_, tokens=(1,), work=EmbedWork(), deadline=90.0))
        scheduler.abort(id_)
    assert [item.id for item in scheduler.expire(60.0)] == [1, 2]

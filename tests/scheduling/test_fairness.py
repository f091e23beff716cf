"""Shares between tenants: of the queue, of seats, of blocks, and of the rows of a step."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.scheduling.blocks import BlockPool
from server.scheduling.fairness import HEAD_START, OUTPUT_WEIGHT, Shares, max_min_shares
from server.scheduling.generation import GenerationLane
from server.scheduling.pace import DecoderPace
from server.scheduling.plan import DecodeStep, Slice
from server.scheduling.rotation import FairStep, choose_rows
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from server.scheduling.waiting import WaitingLine
from tests.scheduling.device import ROW_S, STEP_S, Device, counter, parrot, run_to_end, seconds, text_of


def make(
    num_blocks: int = 200, *, max_sequences: int = 4, max_batch_tokens: int = 64
) -> tuple[Scheduler, GenerationLane, Device]:
    lane = GenerationLane(
        "gpt", BlockPool(num_blocks, 4), max_batch_tokens=max_batch_tokens, max_sequences=max_sequences
    )
    return Scheduler({"gpt": lane}), lane, Device()


def sequence(id_: int, tenant: str = "", *, tokens: int = 8, new: int = 8, priority: int = 0) -> Sequence:
    return Sequence(
        id=id_,
        tokens=[1000 * (id_ + 1) + place for place in range(tokens)],
        max_new_tokens=new,
        tenant=tenant,
        priority=priority,
    )


def step(scheduler: Scheduler, device: Device) -> DecodeStep:
    planned = scheduler.next_step()
    assert isinstance(planned, DecodeStep)
    scheduler.apply(planned, device.run(planned), seconds(planned))
    return planned


def order_of_ends(scheduler: Scheduler, device: Device) -> list[int]:
    return [item.id for item in run_to_end(scheduler, device)]


def test_the_tenant_that_was_served_least_is_next() -> None:
    scheduler, _, device = make(max_sequences=1)
    for id_ in range(4):
        scheduler.generate("gpt", sequence(id_, "many"))
    scheduler.generate("gpt", sequence(9, "few"))
    assert order_of_ends(scheduler, device) == [0, 9, 1, 2, 3]


def test_priority_comes_before_shares_and_shares_before_arrival() -> None:
    scheduler, _, device = make(max_sequences=1)
    scheduler.generate("gpt", sequence(0, "ann"))
    step(scheduler, device)
    scheduler.generate("gpt", sequence(1, "ann"))
    scheduler.generate("gpt", sequence(2, "bob"))
    scheduler.generate("gpt", sequence(3, "ann", priority=1))
    assert order_of_ends(scheduler, device) == [3, 2, 0, 1]


def test_idling_earns_no_credit() -> None:
    shares = Shares()
    shares.join("steady")
    shares.charge("steady", 100.0)
    shares.join("newcomer")
    assert shares.served("newcomer") == 100.0 - HEAD_START


def test_being_served_while_alone_is_not_held_against_anyone_for_ever() -> None:
    shares = Shares()
    shares.join("alone")
    shares.charge("alone", 100.0)
    shares.leave("alone")
    shares.join("other")
    shares.join("alone")
    assert shares.served("alone") == shares.served("other")


def test_the_counters_of_tenants_long_gone_are_forgotten() -> None:
    shares = Shares()
    shares.join("steady")
    for number in range(200):
        shares.join(f"passing {number}")
        shares.charge("steady", 1.0)
        shares.leave(f"passing {number}")
    assert len(shares._served) < 40


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.integers(0, 30)), min_size=1))
def test_the_queue_gives_the_first_of_all_that_wait(joins: list[tuple[str, int, int]]) -> None:
    """Against a plain search, with counters growing and requests leaving and coming back in between."""
    shares = Shares()
    line = WaitingLine[Sequence](shares)
    waiting, away = dict[int, Sequence](), list[Sequence]()
    for arrival, (tenant, priority, cost) in enumerate(joins):
        newcomer = sequence(arrival, tenant, priority=priority)
        shares.join(tenant)
        back = [away.pop()] if away and cost % 2 else []
        for one in (newcomer, *back):
            line.join(one, one.id)
            waiting[one.id] = one
        shares.charge(tenant, cost // 20)  # so that many are served alike
        first = min(waiting.values(), key=lambda one: (-one.priority, shares.served(one.tenant), one.id))
        assert line.first() is first
        if cost % 3:
            away.append(first)
            line.leave(first.id)
            del waiting[first.id]
        assert len(line) == len(waiting)


def test_who_comes_back_has_its_old_place() -> None:
    shares = Shares()
    line = WaitingLine[Sequence](shares)
    ann, bob, other = sequence(0, "ann"), sequence(1, "bob"), sequence(2, "ann")
    for one in (ann, bob, other):
        shares.join(one.tenant)
        line.join(one, one.id)
    line.leave(ann.id)
    assert line.first() is bob
    line.join(ann, ann.id)
    assert line.first() is ann


def test_a_tenant_with_less_than_its_share_of_seats_gets_one_of_anothers() -> None:
    scheduler, lane, device = make(max_sequences=4)
    for id_ in range(8):
        scheduler.generate("gpt", sequence(id_, "many", new=50))
    step(scheduler, device)
    scheduler.generate("gpt", sequence(8, "few", new=50))
    scheduler.generate("gpt", sequence(9, "few", new=50))
    ids = {id_ for _ in range(6) for id_ in step(scheduler, device).ids}
    assert {0, 1, 8, 9} <= ids
    assert lane.preemptions == 2
    for _ in range(20):
        step(scheduler, device)
    assert lane.preemptions == 2  # nobody takes it back


def test_a_tenant_that_was_served_more_waits_though_it_has_no_seat() -> None:
    scheduler, lane, device = make(max_sequences=2)
    scheduler.generate("gpt", sequence(0, "often", tokens=40, new=1))
    for id_ in (1, 2):
        scheduler.generate("gpt", sequence(id_, "seldom", new=30))
    while lane.num_waiting or lane.num_running > 2:
        step(scheduler, device)
    scheduler.generate("gpt", sequence(3, "often", tokens=40, new=1))
    for _ in range(3):
        step(scheduler, device)
    assert lane.preemptions == 0


def test_a_tenant_alone_is_never_preempted_for_fairness() -> None:
    scheduler, lane, device = make(max_sequences=2)
    for id_ in range(6):
        scheduler.generate("gpt", sequence(id_, "only"))
    assert order_of_ends(scheduler, device) == list(range(6))
    assert lane.preemptions == 0


def test_higher_priority_takes_the_seat_of_a_lower_one() -> None:
    scheduler, lane, device = make(max_sequences=1)
    scheduler.generate("gpt", low := sequence(0, new=20))
    step(scheduler, device)
    scheduler.generate("gpt", sequence(1, priority=1))
    assert step(scheduler, device).ids == [1]
    assert order_of_ends(scheduler, device) == [1, 0]
    assert lane.preemptions == 1
    assert low.tokens == text_of(low, counter)


def test_nobody_is_preempted_for_one_who_would_not_fit_even_so() -> None:
    scheduler, lane, device = make(num_blocks=10, max_sequences=4)
    scheduler.generate("gpt", sequence(0, tokens=30, new=8, priority=2))
    step(scheduler, device)
    scheduler.generate("gpt", sequence(1, tokens=2, new=5))
    step(scheduler, device)
    scheduler.generate("gpt", sequence(2, tokens=20, new=1, priority=1))
    step(scheduler, device)
    assert lane.preemptions == 0


def paced() -> DecoderPace:
    """Has learnt that a step takes 10 ms, and 1 ms a row or prompt token."""
    pace = DecoderPace()
    for _ in range(40):
        for rows, tokens in ((1, 0), (16, 0), (1, 50), (0, 50)):
            slices = [Slice(sequence(0), 0, tokens)] if tokens else []
            slices += [Slice(sequence(id_), 7, 1) for id_ in range(rows)]
            pace.observe(DecodeStep(model="gpt", slices=tuple(slices)), STEP_S + (rows + tokens) * ROW_S)
    return pace


def test_one_tenant_has_all_rows() -> None:
    fair = FairStep([sequence(id_, "only") for id_ in range(50)], {}, 1, paced())
    assert fair.max_rows == 50
    assert fair.max_prompt_tokens(50) is None


def test_while_nothing_is_measured_no_row_has_to_wait() -> None:
    fair = FairStep([sequence(1, "ann"), sequence(2, "bob")], {}, 2, DecoderPace())
    assert fair.max_rows == 2
    assert fair.max_prompt_tokens(2) is None


def test_with_several_tenants_a_step_lasts_at_most_so_many_times_the_smallest_alone() -> None:
    rows = [sequence(id_, "many") for id_ in range(50)] + [sequence(50, "few")]
    fair = FairStep(rows, {}, 2, paced())
    tokens = fair.max_prompt_tokens(fair.max_rows)
    assert tokens is not None
    assert fair.max_rows >= 5
    assert tokens >= 2
    assert STEP_S + (fair.max_rows + tokens) * ROW_S <= 2 * (STEP_S + ROW_S) + 1e-9


def test_rows_of_a_tenant_within_its_share_always_run_and_the_others_take_turns() -> None:
    rows = [sequence(id_, "many") for id_ in range(6)] + [sequence(6, "few")]
    seen = Counter[int]()
    for turn in range(1, 7):
        chosen = choose_rows(rows, 3)
        assert len(chosen) == 3
        assert 6 in {row.id for row in chosen}
        for row in chosen:
            row.served = turn
            seen[row.id] += 1
    assert [seen[id_] for id_ in range(6)] == [2] * 6


def test_the_streams_of_a_heavy_tenant_get_on_side_by_side() -> None:
    scheduler, _, device = make(num_blocks=4000, max_sequences=16)
    heavy = [sequence(id_, "heavy", new=200) for id_ in range(15)]
    for one in (*heavy, sequence(15, "light", new=400)):
        scheduler.generate("gpt", one)
    while not all(one.generated for one in heavy):
        step(scheduler, device)
    before = [one.generated for one in heavy]
    for _ in range(60):
        step(scheduler, device)
    gained = [one.generated - since for one, since in zip(heavy, before, strict=True)]
    assert 12 < min(gained) <= max(gained) <= min(gained) + 1
    assert max(gained) < 50


def test_long_prompts_of_one_tenant_do_not_hold_up_the_stream_of_another() -> None:
    scheduler, lane, device = make(num_blocks=4000, max_sequences=16, max_batch_tokens=512)
    scheduler.generate("gpt", sequence(0, "warm", tokens=100, new=8))
    run_to_end(scheduler, device)
    scheduler.generate("gpt", stream := sequence(1, "light", new=60))
    step(scheduler, device)
    for id_ in range(2, 6):
        scheduler.generate("gpt", sequence(id_, "heavy", tokens=900, new=1))
    gaps = [seconds(step(scheduler, device)) for _ in range(50)]
    assert lane.num_running == 2
    assert stream.generated == 51
    assert sum(gaps) / 50 <= 2.1 * (STEP_S + ROW_S)


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 20), min_size=1), st.integers(0, 60))
def test_max_min_shares_are_used_up_and_can_only_grow_at_a_smaller_ones_cost(
    demands: dict[str, int], capacity: int
) -> None:
    shares = max_min_shares(demands, capacity)
    assert sum(shares.values()) == min(capacity, sum(demands.values()))
    assert all(0 <= shares[name] <= demand for name, demand in demands.items())
    short = [shares[name] for name, demand in demands.items() if shares[name] < demand]
    assert not short or min(short) >= max(shares.values()) - 1


@pytest.mark.parametrize("flood", [0, 50])
def test_one_request_at_a_time_is_hardly_slower_beside_fifty_at_once(flood: int) -> None:
    """Median seconds of the small tenant's requests: at most twice as many as alone."""
    scheduler, _, device = make(num_blocks=2000, max_sequences=16, max_batch_tokens=256)
    for id_ in range(flood):
        scheduler.generate("gpt", sequence(id_, "flood", tokens=32, new=256))
    ones = [sequence(100 + number, "one", tokens=32, new=64) for number in range(9)]
    latencies = sorted(_latency(scheduler, device, one) for one in ones)
    alone = 2 * STEP_S + 32 * ROW_S + 63 * (STEP_S + ROW_S)
    assert latencies[4] <= (2.0 if flood else 1.0) * alone


def test_a_first_token_is_hardly_later_beside_fifty_streams() -> None:
    """The rows of the others make room for the prompt, too."""
    scheduler, lane, device = make(num_blocks=4000, max_sequences=64, max_batch_tokens=256)
    for id_ in range(50):
        scheduler.generate("gpt", sequence(id_, "flood", tokens=32, new=400))
    while lane.num_waiting or any(one.pending > 1 for one in lane._roster.seats):
        step(scheduler, device)
    for _ in range(10):
        step(scheduler, device)
    firsts = [_latency(scheduler, device, sequence(100 + i, "one", tokens=45, new=1)) for i in range(5)]
    assert sorted(firsts)[2] <= 1.5 * (STEP_S + 45 * ROW_S)


@pytest.mark.parametrize("tokens", [5, 20, 60, 200])
def test_a_flood_of_prompts_does_not_keep_streams_from_their_share(tokens: int) -> None:
    """Both have more to do than there is time for: neither is served more than twice as much."""
    scheduler, _, device = make(num_blocks=4000, max_sequences=64, max_batch_tokens=256)
    writers = [sequence(id_, "writer", new=4000) for id_ in range(30)]
    for one in writers:
        scheduler.generate("gpt", one)
    scored = waiting = 0
    for _ in range(400):
        while waiting < 20:
            scheduler.generate("gpt", sequence(1000 + scored + waiting, "scorer", tokens=tokens, new=1))
            waiting += 1
        planned = scheduler.next_step()
        assert planned is not None
        ended = len(scheduler.apply(planned, device.run(planned), seconds(planned)))
        scored, waiting = scored + ended, waiting - ended
    written = sum(one.generated for one in writers)
    assert 0.5 < (OUTPUT_WEIGHT * written) / (scored * (tokens + OUTPUT_WEIGHT)) < 2.0


def test_a_single_stream_drafts_beside_the_flood_of_another_tenant_and_many_do_not() -> None:
    device = Device(parrot)
    scheduler, lane, _ = make(num_blocks=4000, max_sequences=64, max_batch_tokens=256)
    for id_ in range(20):
        scheduler.generate("gpt", sequence(id_, "flood", new=40))
    for _ in range(20):
        step(scheduler, device)
    assert lane.drafted_tokens == 0
    scheduler.generate("gpt", one := sequence(20, "one", new=40))
    run_to_end(scheduler, device)
    assert lane.accepted_tokens > 0
    assert one.tokens == text_of(one, parrot)


def _latency(scheduler: Scheduler, device: Device, one: Sequence) -> float:
    scheduler.generate("gpt", one)
    waited = 0.0
    while one.finish_reason is None:
        planned = scheduler.next_step()
        assert planned is not None
        waited += seconds(planned)
        scheduler.apply(planned, device.run(planned), seconds(planned))
    return waited

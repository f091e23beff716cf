"""Passages: packed in order, fair between tenants, dropped before they run once nobody wants them."""

from __future__ import annotations

import pytest

from server.request import EmbedWork
from server.scheduling.encoding import EncodingLane
from server.scheduling.plan import EncodeStep
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage


def passage(
    id_: int, tokens: int = 3, *, tenant: str = "", priority: int = 0, deadline: float = float("inf")
) -> Passage:
    return Passage(
        id=id_, tokens=(1,) * tokens, work=EmbedWork(), tenant=tenant, priority=priority, deadline=deadline
    )


def lane_with(*passages: Passage) -> EncodingLane:
    lane = EncodingLane("bert", max_batch_tokens=8, max_passages=3)
    for one in passages:
        lane.add(one)
    return lane


def batches(lane: EncodingLane) -> list[list[int]]:
    return [step.ids for step in iter(lane.next_step, None)]


def test_passages_are_packed_in_the_order_in_which_they_came() -> None:
    assert batches(lane_with(*(passage(id_) for id_ in range(5)))) == [[0, 1], [2, 3], [4]]


def test_a_batch_has_at_most_so_many_passages() -> None:
    assert batches(lane_with(*(passage(id_, 1) for id_ in range(5)))) == [[0, 1, 2], [3, 4]]


def test_a_passage_longer_than_a_batch_runs_alone() -> None:
    assert batches(lane_with(passage(1, 4), passage(2, 20), passage(3, 4))) == [[1], [2], [3]]


def test_higher_priority_runs_first() -> None:
    assert batches(lane_with(passage(1, 8), passage(2, 8), passage(3, 8, priority=1))) == [[3], [1], [2]]


def test_tenants_alternate_however_much_one_of_them_sends() -> None:
    many = [passage(id_, 8, tenant="many") for id_ in range(3)]
    few = [passage(id_, 8, tenant="few") for id_ in (8, 9)]
    assert batches(lane_with(*many, *few)) == [[0], [8], [1], [9], [2]]


def test_what_nobody_wants_any_more_never_runs() -> None:
    scheduler = Scheduler({"bert": lane_with()})
    for one in (passage(1), passage(2), passage(3, deadline=5.0), passage(4, deadline=6.0)):
        scheduler.encode("bert", one)
    scheduler.abort(1)
    assert [late.id for late in scheduler.expire(5.0)] == [3]
    step = scheduler.next_step()
    assert isinstance(step, EncodeStep)
    assert step.ids == [2, 4]


def test_a_passage_aborted_while_it_runs_is_not_reported() -> None:
    lane = lane_with(passage(1), passage(2))
    step = lane.next_step()
    assert step is not None
    lane.remove(1)
    assert [one.id for one in lane.apply(step, 0.01)] == [2]
    assert lane.num_running == 0


def test_a_passage_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to encode"):
        lane_with(passage(1, 0))

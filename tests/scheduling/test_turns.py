"""One budget of time: what other work costs the streams, and how models share what is left."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.scheduling.plan import EncodeStep, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.turns import UNMEASURED_TOKENS
from tests.scheduling.device import ROW_S, STEP_S, seconds
from tests.scheduling.server import TARGET_S, Server, warm


def test_the_longest_gap_between_tokens_keeps_to_the_target_whatever_else_there_is_to_do() -> None:
    server = warm()
    stream = server.stream()
    server.step()
    for model in ("bert", "minilm"):
        server.embed(model, tokens=20, count=2000)
    server.stream("llama", tokens=3000)
    server.stream("gpt", tokens=3000)
    assert max(server.gaps(stream, 30)) <= 1.2 * TARGET_S


def test_what_the_streams_leave_is_used() -> None:
    server = warm()
    stream = server.stream()
    server.step()
    server.embed(tokens=20, count=2000)
    gaps = server.gaps(stream, 30)
    assert sum(gaps) / len(gaps) >= 0.7 * TARGET_S


def test_two_encoders_share_what_the_streams_leave_though_one_has_longer_passages() -> None:
    server = warm()
    stream = server.stream()
    server.step()
    server.embed("bert", tokens=120, count=500)
    server.embed("minilm", tokens=5, count=8000)
    server.spent = dict.fromkeys(server.spent, 0.0)
    server.gaps(stream, 100)
    assert server.spent["bert"] == pytest.approx(server.spent["minilm"], rel=0.3)


def test_a_passage_longer_than_its_quantum_is_paid_back() -> None:
    server = warm()
    stream = server.stream()
    server.step()
    server.embed(tokens=500, count=4)  # each takes 0.26 s: five targets
    gaps = server.gaps(stream, 40)
    late = [number for number, gap in enumerate(gaps) if gap > 2 * TARGET_S]
    assert len(late) == 4
    assert min(after - before for before, after in pairwise(late)) >= 4


def test_an_idle_lane_saves_nothing_up() -> None:
    server = warm()
    stream = server.stream()
    server.gaps(stream, 50)
    for model in ("bert", "minilm"):
        server.embed(model, tokens=1, count=500)
    steps = list[Step]()
    while len(steps) < 2:
        step = server.step()
        steps += [step] if isinstance(step, EncodeStep) else []
    assert all(seconds(step) <= 0.55 * TARGET_S for step in steps)


def test_five_lanes_share_what_the_streams_leave_though_it_does_for_one_pass_a_round() -> None:
    server = warm()
    stream = server.stream(new=3000)
    server.step()
    for model in ("bert", "minilm"):
        server.embed(model, tokens=10, count=5000)
    server.stream("llama", tokens=6000)
    server.stream("gpt", tokens=6000)
    for _ in range(300):
        server.stream("t5", source=19, new=1)
    server.spent = dict.fromkeys(server.spent, 0.0)
    server.gaps(stream, 200)
    server.spent["gpt"] -= 200 * (STEP_S + ROW_S)
    assert min(server.spent.values()) > 0.7 * max(server.spent.values())


def test_a_lane_that_needs_a_round_of_its_own_gets_one() -> None:
    """What the prompts beside two streams leave of each round is less than a pass of the encoder."""
    server = warm()
    streams = [server.stream(model, new=3000) for model in ("gpt", "llama")]
    while not all(stream.generated for stream in streams):
        server.step()
    for model in ("gpt", "llama"):
        server.stream(model, tokens=6000)
    server.embed(tokens=10, count=5000)
    server.spent = dict.fromkeys(server.spent, 0.0)
    since = server.now
    server.gaps(streams[0], 200)
    assert server.spent["bert"] > 0.1 * (server.now - since)


def test_prompts_beside_streams_let_an_encoder_pass_whose_passes_are_dear() -> None:
    """What the prompts leave of each round never is enough for one, so some round must be without them."""
    server = warm(encoder_pass_s=2 * STEP_S)
    stream = server.stream(new=3000)
    server.step()
    server.stream(tokens=8000)
    server.embed(tokens=10, count=5000)
    server.spent = dict.fromkeys(server.spent, 0.0)
    since = server.now
    server.gaps(stream, 200)
    assert server.spent["bert"] > 0.2 * (server.now - since)


def test_prompts_that_no_seat_is_free_for_take_nothing_from_an_encoder() -> None:
    def encoded(*, queued: int) -> float:
        server = warm(max_sequences=1)
        stream = server.stream(new=1000)
        server.step()
        for _ in range(queued):
            server.stream(tokens=100)
        server.embed(tokens=20, count=5000)
        server.spent = dict.fromkeys(server.spent, 0.0)
        server.gaps(stream, 100)
        return server.spent["bert"]

    assert encoded(queued=5) == pytest.approx(encoded(queued=0))


def test_without_streams_batches_are_full() -> None:
    server = warm()
    server.embed(tokens=8, count=100)
    step = server.step()
    assert isinstance(step, EncodeStep)
    assert (len(step.passages), step.num_tokens) == (64, 512)


def test_before_anything_is_measured_a_quantum_is_small() -> None:
    server = Server()
    server.stream()
    server.step()
    server.embed(tokens=8, count=100)
    steps = [server.step() for _ in range(2)]
    assert [step.num_tokens for step in steps if isinstance(step, EncodeStep)] == [UNMEASURED_TOKENS]


def test_prompts_go_on_though_the_streams_alone_exceed_the_target() -> None:
    server = warm()
    for _ in range(31):
        server.stream(new=400)
    server.step()
    server.scheduler = Scheduler(server.lanes, itl_target_s=STEP_S / 10)
    server.embed(tokens=20)
    for _ in range(60):
        server.step()
    assert not server.lanes["bert"].num_waiting


def test_every_lane_with_streams_has_a_row_in_every_round() -> None:
    server = warm()
    one, other = server.stream("gpt"), server.stream("llama")
    for _ in range(20):
        server.step()
    assert abs(one.generated - other.generated) <= 1


@pytest.mark.parametrize("target_s", [0.0, -1.0, float("nan")])
def test_a_target_that_is_no_time_is_refused(target_s: float) -> None:
    with pytest.raises(ValueError, match="between tokens"):
        Scheduler({}, itl_target_s=target_s)


def test_streams_that_need_more_than_the_target_leave_others_a_tenth_of_the_device() -> None:
    """Else what comes steadily beside them would wait ever longer."""
    server = warm(max_sequences=64)
    streams = [server.stream(new=3000) for _ in range(50)]  # 60 ms a step, and the target is 50
    server.gaps(streams[0], 3)
    server.embed(tokens=5, count=9000)
    server.spent = dict.fromkeys(server.spent, 0.0)
    server.gaps(streams[0], 40)
    part = server.spent["bert"] / sum(server.spent.values())
    assert 0.1 <= part <= 0.25

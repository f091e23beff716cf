"""How long a request would wait is foreseen; and no estimate, however wrong, keeps all requests away."""

from __future__ import annotations

import pytest

from server.request import EmbedWork
from server.scheduling.sequence import Passage, Sequence
from tests.scheduling.device import ROW_S, STEP_S
from tests.scheduling.server import Server, warm


def test_how_long_a_prompt_would_wait_is_unknown_until_something_ran() -> None:
    server = Server()
    newcomer = Sequence(id=0, tokens=[1] * 50, max_new_tokens=1)
    assert server.scheduler.seconds_until_first(newcomer, "gpt") is None


@pytest.mark.parametrize("queued", [0, 10])
def test_how_long_a_prompt_would_wait_is_foreseen(queued: int) -> None:
    server = warm()
    for _ in range(queued):
        server.stream(tokens=400, new=1)
    newcomer = Sequence(id=0, tokens=list(range(300)), max_new_tokens=1)
    foreseen = server.scheduler.seconds_until_first(newcomer, "gpt")
    assert foreseen is not None
    server.scheduler.generate("gpt", newcomer)
    since = server.now
    while not newcomer.generated:
        server.step()
    assert foreseen == pytest.approx(server.now - since, rel=0.3)


def test_how_long_a_passage_would_wait_is_foreseen_beside_streams() -> None:
    server = warm()
    stream = server.stream()
    server.step()
    server.embed(tokens=50, count=100)
    foreseen = server.scheduler.seconds_until_first(Passage(id=0, tokens=(1,) * 50, work=EmbedWork()), "bert")
    assert foreseen is not None
    since = server.now
    while server.lanes["bert"].num_waiting:
        server.step()
    assert foreseen == pytest.approx(server.now - since, rel=0.4)
    assert stream.generated > 10


def test_where_all_seats_are_taken_the_wait_for_one_is_counted() -> None:
    server = warm()
    for _ in range(64):
        server.stream(new=100)
    while server.lanes["gpt"].num_waiting:  # the first half has shown how long an answer is
        server.step()
    for _ in range(32):
        server.stream(new=100)
    newcomer = Sequence(id=0, tokens=[1, 2], max_new_tokens=1)
    foreseen = server.scheduler.seconds_until_first(newcomer, "gpt")
    assert foreseen is not None
    assert foreseen > 90 * (STEP_S + 32 * ROW_S)  # of 100 steps that those in the seats have to go


def test_a_seat_that_a_lower_priority_will_give_up_is_not_waited_for() -> None:
    server = warm(max_sequences=1)
    for _ in range(3):
        server.stream(new=100)
    while server.lanes["gpt"].num_waiting == 3:
        server.step()
    urgent = Sequence(id=0, tokens=[1, 2], max_new_tokens=1, priority=1)
    foreseen = server.scheduler.seconds_until_first(urgent, "gpt")
    assert foreseen is not None
    assert foreseen < 2 * (STEP_S + ROW_S)


@pytest.mark.parametrize("model", ["gpt", "bert"])
def test_a_first_step_that_warmed_the_device_up_keeps_nobody_away(model: str) -> None:
    """It took a minute; while streams go on, every request with a deadline of ten seconds is still tried."""
    server, timeout_s = Server(), 10.0
    server.slowness = 2000.0
    server.stream("gpt", tokens=5)
    server.embed("bert", tokens=5)
    server.step(), server.step()
    server.slowness = 1.0
    for _ in range(8):
        foreseen = server.scheduler.seconds_until_first(_newcomer(model, tokens=400), model)
        assert (foreseen or 0.0) < timeout_s
        server.stream("gpt", tokens=400, new=2) if model == "gpt" else server.embed("bert", tokens=400)
        for _ in range(4):
            server.step()


def test_rows_tell_that_a_first_prompt_was_slow_before_there_is_a_second() -> None:
    server = Server()
    server.slowness = 2000.0
    server.stream("gpt", tokens=5)
    server.step()
    server.slowness = 1.0
    for _ in range(5):
        server.step()
    foreseen = server.scheduler.seconds_until_first(_newcomer("gpt", tokens=400), "gpt")
    assert foreseen is not None
    assert foreseen < 10.0


@pytest.mark.parametrize("model", ["gpt", "bert"])
def test_an_idle_model_tries_again_what_it_has_known_as_too_slow(model: str) -> None:
    server, timeout_s = Server(), 10.0
    server.slowness = 200.0
    for _ in range(5):
        server.stream("gpt", tokens=100, new=2)
        server.embed("bert", tokens=100)
        server.step(), server.step()
    while any(lane.num_running or lane.num_waiting for lane in server.lanes.values()):
        server.step()
    asked = [server.scheduler.seconds_until_first(_newcomer(model, tokens=400), model) for _ in range(12)]
    assert asked[0] is not None
    assert asked[0] > timeout_s
    assert asked[-1] is not None
    assert asked[-1] < timeout_s


def _newcomer(model: str, *, tokens: int) -> Sequence | Passage:
    if model == "gpt":
        return Sequence(id=0, tokens=list(range(tokens)), max_new_tokens=1)
    return Passage(id=0, tokens=(1,) * tokens, work=EmbedWork())

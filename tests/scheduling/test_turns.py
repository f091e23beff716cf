"""One budget of time: what other work costs the streams, and how models share what is left."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.request import EmbedWork
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import EncodeStep, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage, Sequence
from server.scheduling.turns import UNMEASURED_TOKENS
from tests.scheduling.device import ROW_S, STEP_S, Device, seconds

TARGET_S = 0.05


class Server:
    """A scheduler with two decoders and two encoders, and a clock that its steps move on."""

    def __init__(self, *, max_batch_tokens: int = 512) -> None:
        self.lanes: dict[str, GenerationLane | EncodingLane] = {
            name: GenerationLane(
                name,
                BlockPool(4000, 4),
                max_batch_tokens=max_batch_tokens,
                max_sequences=32,
                speculation=False,
            )
            for name in ("gpt", "llama")
        }
        for name in ("bert", "minilm"):
            self.lanes[name] = EncodingLane(name, max_batch_tokens=max_batch_tokens, max_passages=64)
        self.scheduler = Scheduler(self.lanes, itl_target_s=TARGET_S)
        self._devices = {name: Device() for name in self.lanes}
        self.now = 0.0
        self.spent = dict.fromkeys(self.lanes, 0.0)
        self._next_id = 0

    def stream(self, model: str = "gpt", *, tokens: int = 1, new: int = 1000, tenant: str = "") -> Sequence:
        self._next_id += 1
        start = 10_000 * self._next_id
        sequence = Sequence(
            id=self._next_id, tokens=[*range(start, start + tokens)], max_new_tokens=new, tenant=tenant
        )
        self.scheduler.generate(model, sequence)
        return sequence

    def embed(self, model: str = "bert", *, tokens: int = 20, count: int = 1) -> None:
        for _ in range(count):
            self._next_id += 1
            self.scheduler.encode(model, Passage(id=self._next_id, tokens=(1,) * tokens, work=EmbedWork()))

    def step(self) -> Step:
        step = self.scheduler.next_step()
        assert step is not None
        self.scheduler.apply(step, self._devices[step.model].run(step), seconds(step))
        self.now += seconds(step)
        self.spent[step.model] += seconds(step)
        return step

    def gaps(self, stream: Sequence, rounds: int) -> list[float]:
        """Seconds between one token of a stream and the next."""
        gaps = list[float]()
        for _ in range(rounds):
            since, length = self.now, len(stream.tokens)
            while len(stream.tokens) == length:
                self.step()
            gaps.append(self.now - since)
        return gaps


def warm() -> Server:
    """Has measured every lane."""
    server = Server()
    for model in ("gpt", "llama"):
        server.stream(model, tokens=200, new=6)
        server.stream(model, tokens=60, new=12)
    for model in ("bert", "minilm"):
        server.embed(model, tokens=200)
        server.embed(model, tokens=20, count=30)
    while any(lane.num_running or lane.num_waiting for lane in server.lanes.values()):
        server.step()
    return server


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


def test_four_lanes_share_what_the_streams_leave_though_it_does_for_one_pass_a_round() -> None:
    server = warm()
    stream = server.stream(new=3000)
    server.step()
    for model in ("bert", "minilm"):
        server.embed(model, tokens=10, count=5000)
    server.stream("llama", tokens=6000)
    server.stream("gpt", tokens=6000)
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

"""The engine's loop over a real socket, with a device that is a few lines of Python."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.engine import messages
from server.engine.loop import Loop
from server.engine.messages import Abort, Embed, Failed, FillMask, Generate, Stepped, frame
from server.request import EmbedWork, FinishReason, MaskWork, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Encoded, Results, Sampled, Scored, Step
from server.scheduling.scheduler import Scheduler

POISON = 666


class CountingRunner:
    """Continues every sequence with the next integer; fails on any that holds `POISON`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def run(self, step: Step) -> Results:
        self.entered.set()
        assert self.gate.wait(10)
        if isinstance(step, DecodeStep):
            if any(POISON in piece.sequence.tokens for piece in step.slices):
                raise RuntimeError("poisoned")
            return Results(
                sampled={
                    piece.sequence.id: Sampled((Scored(piece.sequence.tokens[-1] + 1, -0.5),))
                    for piece in step.slices
                    if piece.samples
                }
            )
        return Results(
            encoded={
                passage.id: Encoded(vector=(1.0, 2.0))
                if isinstance(passage.work, EmbedWork)
                else Encoded(masks=(((5, 0.9),),))
                for passage in step.passages
            }
        )


class Peer:
    """This side of the socket: sends commands, reads events one by one."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.idle: messages.Idle | None = None
        link.settimeout(10)

    def send(self, *commands: messages.Command) -> None:
        self._link.sendall(b"".join(frame(command) for command in commands))

    def receive(self) -> messages.Event:
        """The next event that is about a request."""
        while isinstance(event := self._receive(), messages.Idle):
            self.idle = event
        return event

    def _receive(self) -> messages.Event:
        (length,) = messages.LENGTH.unpack(self._link.recv(4, socket.MSG_WAITALL))
        event: messages.Event = messages.decode_event(self._link.recv(length, socket.MSG_WAITALL))
        return event

    def stepped(self) -> Stepped:
        event = self.receive()
        assert isinstance(event, Stepped)
        return event

    @property
    def quiet(self) -> bool:
        """Nothing more comes but the word that there is nothing left to do."""
        while select.select([self._link], [], [], 0.2)[0]:
            event = self._receive()
            if not isinstance(event, messages.Idle):
                return False
            self.idle = event
        return True


@contextmanager
def running_loop(runner: CountingRunner) -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    lanes: dict[str, GenerationLane | EncodingLane] = {
        "gpt": GenerationLane("gpt", BlockPool(8, 4), max_batch_tokens=16, max_sequences=4),
        "bert": EncodingLane("bert", max_batch_tokens=16, max_passages=4),
    }
    thread = threading.Thread(target=Loop(theirs, Scheduler(lanes), runner).run)
    thread.start()
    try:
        yield Peer(ours)
    finally:
        ours.close()  # which is what ends it
        thread.join(10)
        theirs.close()
        assert not thread.is_alive()


def generate(id_: int, tokens: list[int], new: int = 3, stop: list[int] | None = None) -> Generate:
    return Generate(id_, "gpt", tokens, new, Sampling(), stop or [])


def test_a_sequence_is_answered_token_by_token() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10, 11]))
        answers = [peer.stepped().answers[0] for _ in range(3)]
        assert answers == [
            messages.Sampled(1, (Scored(12, -0.5),), None),
            messages.Sampled(1, (Scored(13, -0.5),), None),
            messages.Sampled(1, (Scored(14, -0.5),), FinishReason.LENGTH),
        ]
        assert peer.quiet


def test_a_stop_token_ends_it() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10], new=9, stop=[12]))
        assert [peer.stepped().answers[0] for _ in range(2)][-1] == messages.Sampled(
            1, (Scored(12, -0.5),), FinishReason.EOS
        )
        assert peer.quiet


def test_encoder_work_runs_between_decode_steps() -> None:
    runner = CountingRunner()
    runner.gate.clear()
    with running_loop(runner) as peer:
        peer.send(generate(1, [10], new=4))
        peer.send(Embed(2, "bert", (1, 2), EmbedWork()))
        peer.send(FillMask(3, "bert", (1, 2), MaskWork(positions=(0,), top_k=1)))
        runner.gate.set()
        steps = [peer.stepped() for _ in range(5)]
        assert [step.load.model for step in steps].count("bert") == 1
        assert steps[-1].load.model == "gpt"  # it did not have to wait for the stream to end
        answers = [
            answer for step in steps for answer in step.answers if not isinstance(answer, messages.Sampled)
        ]
        assert answers == [messages.Vector(2, (1.0, 2.0)), messages.MaskScores(3, (((5, 0.9),),))]


def test_an_aborted_request_is_not_answered_any_more() -> None:
    runner = CountingRunner()
    with running_loop(runner) as peer:
        peer.send(generate(1, [10], new=7))
        peer.stepped()
        runner.gate.clear()
        peer.send(Abort(1), generate(2, [50], new=1))
        runner.gate.set()
        last = peer.stepped()
        while last.answers[0].id == 1:  # steps that ran before the abort arrived
            last = peer.stepped()
        assert last.answers == [messages.Sampled(2, (Scored(51, -0.5),), FinishReason.LENGTH)]
        assert last.load.blocks_used == 0
        assert peer.quiet


def test_what_hung_up_does_not_stay_in_the_gauges() -> None:
    runner = CountingRunner()
    runner.gate.clear()
    with running_loop(runner) as peer:
        peer.send(generate(1, [10], new=20))
        assert runner.entered.wait(10)
        peer.send(Abort(1))  # while the first step runs
        runner.gate.set()
        assert peer.stepped().load.running == 1
        assert peer.quiet
        assert peer.idle is not None
        assert [load.running + load.blocks_used for load in peer.idle.loads] == [0, 0]


def test_a_failing_step_loses_its_requests_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [POISON]))
        assert peer.receive() == Failed([1], "RuntimeError while running gpt")
        peer.send(generate(2, [10], new=1))
        after = peer.stepped()
        assert after.answers[0].id == 2
        assert after.load.blocks_used == 0
    assert "poisoned" in caplog.text


def test_a_request_that_can_never_fit_fails_alone() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10] * 40), generate(2, [10], new=1))
        assert peer.receive() == Failed([1], "43 tokens can never fit into 32 of KV cache")
        assert peer.stepped().answers[0].id == 2


def test_a_message_cut_anywhere_is_put_together_again() -> None:
    with running_loop(CountingRunner()) as peer:
        for byte in frame(generate(1, [10], new=1)):
            peer._link.sendall(bytes([byte]))
        assert peer.stepped().answers == [messages.Sampled(1, (Scored(11, -0.5),), FinishReason.LENGTH)]

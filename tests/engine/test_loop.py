"""The engine's loop over a real socket, with a device that is a few lines of Python."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from server.engine import messages
from server.engine.loop import Loop
from server.engine.messages import (
    Abort,
    Embed,
    Failed,
    FillMask,
    Generate,
    Refused,
    Standing,
    Stepped,
    frame,
)
from server.errors import InvalidRequest
from server.request import Beams, EmbedWork, FinishReason, Grammar, GrammarKind, MaskWork, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import Continuation, DecodeStep, Encoded, Results, Sampled, Scored, Step
from server.scheduling.scheduler import Scheduler

POISON = 666
LOST = 777  # no grammar goes on after it
FORGOTTEN = 888  # what holds it has no results


class CountingRunner:
    """Continues every sequence with the next integer, in `step_s`; fails on any that holds `POISON`.

    An encoder-decoder skips as many as its source's tokens are together. A beam search says 5 over and over.
    """

    def __init__(self, *, step_s: float = 0.0) -> None:
        self._step_s = step_s
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def run(self, step: Step) -> Results:
        self.entered.set()
        assert self.gate.wait(10)
        time.sleep(self._step_s)
        if isinstance(step, DecodeStep):
            if any(POISON in piece.sequence.tokens for piece in step.slices):
                raise RuntimeError("poisoned")
            return Results(
                continued={
                    piece.sequence.id: tuple(
                        Continuation(0, Scored(token, -0.5), -float(token))
                        for token in range(5, 5 + 2 * piece.sequence.greatest_width)
                    )
                    for piece in step.slices
                    if piece.samples and piece.sequence.beams and FORGOTTEN not in piece.sequence.tokens
                },
                sampled={
                    piece.sequence.id: Sampled(
                        (Scored(piece.sequence.tokens[-1] + 1 + sum(piece.sequence.source), -0.5),),
                        failure="lost" if LOST in piece.sequence.tokens else None,
                    )
                    for piece in step.slices
                    if piece.samples and not piece.sequence.beams and FORGOTTEN not in piece.sequence.tokens
                },
            )
        return Results(
            encoded={
                passage.id: Encoded(vector=(1.0, 2.0))
                if isinstance(passage.work, EmbedWork)
                else Encoded(masks=(((5, 0.9),),))
                for passage in step.passages
                if FORGOTTEN not in passage.tokens
            }
        )


class OneWord:
    """A grammar is ready when its source says so; `held` are the sequences under one."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.held = dict[int, str]()

    def compile(self, model: str, grammar: Grammar) -> Future[str]:
        if grammar.source == "refused":
            raise InvalidRequest("no such grammar", parameter="grammar")
        future = Future[str]()
        threading.Thread(target=self._compile, args=(grammar.source, future)).start()
        return future

    def hold(self, model: str, id_: int, compiled: str, stop_tokens: frozenset[int]) -> None:
        self.held[id_] = compiled

    def forget(self, model: str, id_: int) -> None:
        self.held.pop(id_)

    def _compile(self, source: str, future: Future[str]) -> None:
        self.ready.wait(10)
        if source == "wrong":
            future.set_exception(InvalidRequest("it means nothing", parameter="grammar"))
        else:
            future.set_result(source)


class Shelf:
    """Any folder is an adapter, unless it is called `broken` or bursts the loop's own hands."""

    def __init__(self) -> None:
        self.attached: dict[tuple[str, str], str] = {}

    def attach(self, model: str, name: str, path: str) -> str:
        if path == "broken":
            raise InvalidRequest("it lacks a tensor", parameter="lora_path")
        if path == "bursting":
            raise MemoryError
        self.attached[model, name] = path
        return f"fp_{path}"

    def detach(self, model: str, name: str) -> None:
        self.attached.pop((model, name), None)


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
def running_loop(
    runner: CountingRunner, grammars: OneWord | None = None, adapters: Shelf | None = None
) -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    lanes: dict[str, GenerationLane | EncodingLane] = {
        "gpt": GenerationLane("gpt", BlockPool(8, 4), max_batch_tokens=16, max_sequences=4),
        "t5": GenerationLane("t5", BlockPool(8, 4), max_batch_tokens=16, max_sequences=4, sources=True),
        "bert": EncodingLane("bert", max_batch_tokens=16, max_passages=4),
    }
    loop = Loop(theirs, Scheduler(lanes), runner, grammars or OneWord(), adapters or Shelf())
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield Peer(ours)
    finally:
        ours.close()  # which is what ends it
        thread.join(10)
        theirs.close()
        assert not thread.is_alive()


def generate(
    id_: int, tokens: list[int], new: int = 3, stop: list[int] | None = None, **rest: Any
) -> Generate:
    return Generate(id_, "gpt", tokens, new, Sampling(), stop or [], **rest)


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


def test_an_encoder_decoder_gets_its_source() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(Generate(1, "t5", [10], 2, Sampling(), [], source=(3, 4)))
        answers = [peer.stepped().answers[0] for _ in range(2)]
        assert answers == [
            messages.Sampled(1, (Scored(18, -0.5),), None),
            messages.Sampled(1, (Scored(26, -0.5),), FinishReason.LENGTH),
        ]


def test_a_request_without_the_source_that_its_model_needs_is_refused() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(Generate(1, "t5", [10], 2, Sampling(), []))
        assert peer.receive() == Refused(1, "t5: an encoder-decoder needs a source")


def test_a_beam_search_is_answered_whole_at_its_end() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10, 11], beams=Beams(width=2)))
        answers = [peer.stepped().answers for _ in range(3)]
        assert answers == [[], [], [messages.Sampled(1, (Scored(5, -0.5),) * 3, FinishReason.LENGTH)]]
        assert peer.quiet


def test_more_beams_than_there_is_memory_for_are_refused() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10] * 4, new=12, beams=Beams(width=3)))
        reason = "16 tokens on 3 beams can never fit into 32 of KV cache"
        assert peer.receive() == Refused(1, reason)


def test_a_beam_search_that_the_runner_forgets_fails_by_itself() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [FORGOTTEN], beams=Beams(width=2)))
        assert peer.receive() == Failed([1], "ValueError while running gpt")
        peer.send(generate(2, [10], new=1))
        assert peer.stepped().answers == [messages.Sampled(2, (Scored(11, -0.5),), FinishReason.LENGTH)]


def test_a_stop_token_ends_it() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10], new=9, stop=[12]))
        assert [peer.stepped().answers[0] for _ in range(2)][-1] == messages.Sampled(
            1, (Scored(12, -0.5),), FinishReason.EOS
        )
        assert peer.quiet


def test_a_prompt_without_new_tokens_ends_when_it_is_read() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, list(range(20)), new=0))
        assert peer.stepped().answers == []
        assert peer.stepped().answers == [messages.Sampled(1, (), FinishReason.LENGTH)]
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
        assert [load.running + load.blocks_used for load in peer.idle.loads] == [0, 0, 0]


def test_a_failing_step_loses_its_requests_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [POISON]))
        assert peer.receive() == Failed([1], "RuntimeError while running gpt")
        peer.send(generate(2, [10], new=1))
        after = peer.stepped()
        assert after.answers[0].id == 2
        assert after.load.blocks_used == 0
    assert "poisoned" in caplog.text


def test_a_request_that_can_never_fit_is_refused_alone() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10] * 40), generate(2, [10], new=1))
        assert peer.receive() == Refused(1, "43 tokens can never fit into 32 of KV cache")
        assert peer.stepped().answers[0].id == 2


def test_a_deadline_ends_a_stream_where_it_stands() -> None:
    runner = CountingRunner()
    runner.gate.clear()
    with running_loop(runner) as peer:
        deadline = time.monotonic() + 1.0
        peer.send(generate(1, [10], new=20, standing=Standing(deadline=deadline)))
        assert runner.entered.wait(10)
        time.sleep(max(0.0, deadline - time.monotonic()))
        runner.gate.set()
        assert peer.stepped().answers == [messages.Sampled(1, (Scored(11, -0.5),), None)]
        assert peer.receive() == messages.Sampled(1, (), FinishReason.TIMEOUT)
        assert peer.quiet
        assert peer.idle is not None
        assert peer.idle.loads[0].blocks_used == 0


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [10], standing=Standing(deadline=time.monotonic() - 1.0)))
        event = peer.receive()
        assert event == Refused(1, "`timeout` passed before the text could be begun", retry_after_s=0.0)


def test_a_passage_whose_deadline_has_passed_is_not_begun() -> None:
    with running_loop(CountingRunner()) as peer:
        late = Standing(deadline=time.monotonic() - 1.0)
        peer.send(Embed(1, "bert", (10,), EmbedWork(), late))
        event = peer.receive()
        assert event == Refused(1, "`timeout` passed before the text could be begun", retry_after_s=0.0)
        peer.send(Embed(2, "bert", (10,), EmbedWork()))
        assert peer.stepped().answers[0].id == 2


def test_a_passage_whose_deadline_passes_in_the_queue_is_not_run() -> None:
    """Each fills a step."""
    runner = CountingRunner()
    runner.gate.clear()
    with running_loop(runner) as peer:
        deadline = time.monotonic() + 0.5
        patience = (Standing(), Standing(deadline=deadline), Standing())
        peer.send(*(Embed(i, "bert", (10,) * 16, EmbedWork(), each) for i, each in enumerate(patience)))
        assert runner.entered.wait(10)
        time.sleep(max(0.0, deadline - time.monotonic()))
        runner.gate.set()
        assert peer.stepped().answers[0].id == 0
        assert peer.receive() == Refused(1, "`timeout` passed before the text's turn", retry_after_s=0.0)
        assert peer.stepped().answers[0].id == 2


def test_a_passage_that_cannot_be_answered_in_time_is_refused_and_says_how_far_that_is() -> None:
    """16 tokens a step of 20 ms."""
    runner = CountingRunner(step_s=0.02)
    with running_loop(runner) as peer:
        for i in range(4):
            peer.send(Embed(i, "bert", (10,) * 16, EmbedWork()))
            peer.stepped()
        runner.gate.clear()
        peer.send(*(Embed(i, "bert", (10,) * 16, EmbedWork()) for i in range(4, 9)))
        peer.send(Embed(9, "bert", (10,), EmbedWork(), Standing(deadline=time.monotonic() + 0.03)))
        runner.gate.set()
        while not isinstance(event := peer.receive(), Refused):
            pass
        assert event.id == 9
        assert "`timeout` cannot be met: the answer is about 0." in event.reason


def test_a_deadline_before_the_first_token_is_refused_and_says_how_far_that_is() -> None:
    """Prompts of 9 tokens, no two of them alike, at most 16 tokens a step of 20 ms."""
    runner = CountingRunner(step_s=0.02)
    with running_loop(runner) as peer:
        prompts = [[100 * i] * 9 for i in range(1, 18)]
        peer.send(*(generate(i, prompts[i], new=1) for i in range(8)))
        answered = 0
        while answered < 8:
            answered += len(peer.stepped().answers)
        runner.gate.clear()
        peer.send(*(generate(i, prompts[i], new=1) for i in range(8, 16)))
        peer.send(generate(16, prompts[16], standing=Standing(deadline=time.monotonic() + 0.03)))
        runner.gate.set()
        while not isinstance(event := peer.receive(), Refused):
            pass
        assert event.id == 16
        assert "the first token is about 0." in event.reason
        assert event.retry_after_s is not None
        assert 0.03 < event.retry_after_s < 1.0


def test_a_deadline_that_passes_while_a_grammar_is_compiled_ends_the_text_there() -> None:
    grammars = OneWord()
    with running_loop(CountingRunner(), grammars) as peer:
        word = Grammar(kind=GrammarKind.REGEX, source="word")
        peer.send(generate(1, [10], grammar=word, standing=Standing(deadline=time.monotonic() + 0.05)))
        assert peer.receive() == messages.Sampled(1, (), FinishReason.TIMEOUT)
        grammars.ready.set()
        assert peer.quiet
        assert not grammars.held


def test_a_request_that_a_step_leaves_unanswered_fails_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [FORGOTTEN]))
        assert peer.receive() == Failed([1], "ValueError while running gpt")
        peer.send(Embed(2, "bert", (FORGOTTEN,), EmbedWork()))
        assert peer.receive() == Failed([2], "ValueError while running bert")
        peer.send(generate(3, [10], new=1))
        after = peer.stepped()
        assert after.answers[0].id == 3
        assert after.load.blocks_used == 0
    assert "no results for 1 of 1 requests" in caplog.text


def test_a_sequence_joins_when_its_grammar_is_ready_and_others_do_not_wait() -> None:
    grammars = OneWord()
    with running_loop(CountingRunner(), grammars) as peer:
        peer.send(generate(1, [10], new=1, grammar=Grammar(kind=GrammarKind.REGEX, source="word")))
        peer.send(generate(2, [20], new=2))
        assert [peer.stepped().answers[0].id for _ in range(2)] == [2, 2]
        grammars.ready.set()
        assert peer.stepped().answers[0].id == 1
        assert not grammars.held


@pytest.mark.parametrize("source", ["refused", "wrong"])
def test_a_bad_grammar_is_refused_and_nothing_else(source: str) -> None:
    grammars = OneWord()
    grammars.ready.set()
    with running_loop(CountingRunner(), grammars) as peer:
        peer.send(generate(1, [10], grammar=Grammar(kind=GrammarKind.REGEX, source=source)))
        event = peer.receive()
        assert isinstance(event, Refused)
        assert (event.id, event.parameter) == (1, "grammar")
        peer.send(generate(2, [20], new=1))
        assert peer.stepped().answers[0].id == 2


def test_a_text_that_its_grammar_cannot_follow_ends_with_the_reason() -> None:
    with running_loop(CountingRunner()) as peer:
        peer.send(generate(1, [LOST - 1]))
        assert peer.stepped().answers == [messages.Sampled(1, (Scored(LOST, -0.5),), None)]
        assert peer.receive() == Refused(1, "lost", parameter="grammar")
        step = peer.stepped()
        assert (step.answers, step.load.blocks_used) == ([], 0)
        assert peer.quiet


def test_an_aborted_request_does_not_come_back_when_its_grammar_is_ready() -> None:
    grammars = OneWord()
    with running_loop(CountingRunner(), grammars) as peer:
        peer.send(generate(1, [10], grammar=Grammar(kind=GrammarKind.REGEX, source="word")), Abort(1))
        grammars.ready.set()
        assert peer.quiet
        assert not grammars.held


def test_a_message_cut_anywhere_is_put_together_again() -> None:
    with running_loop(CountingRunner()) as peer:
        for byte in frame(generate(1, [10], new=1)):
            peer._link.sendall(bytes([byte]))
        assert peer.stepped().answers == [messages.Sampled(1, (Scored(11, -0.5),), FinishReason.LENGTH)]


def test_adapters_come_and_go_between_steps_and_a_broken_one_ends_nothing() -> None:
    shelf = Shelf()
    with running_loop(CountingRunner(), adapters=shelf) as peer:
        peer.send(messages.Attach(1, "gpt", "sql@1", "folder"))
        assert peer.receive() == messages.Attached(1, "fp_folder")
        peer.send(messages.Attach(2, "gpt", "x", "broken"), messages.Attach(3, "gpt", "x", "bursting"))
        assert peer.receive() == messages.Refused(2, "it lacks a tensor", parameter="lora_path")
        assert peer.receive() == messages.Failed([3], "MemoryError while loading an adapter")
        assert shelf.attached == {("gpt", "sql@1"): "folder"}
        peer.send(messages.Detach("gpt", "sql@1"), generate(4, [5], 1))
        assert peer.stepped().answers
        assert shelf.attached == {}

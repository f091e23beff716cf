"""The engine's own loop: take what was asked, plan a step, run it, hand out what it gave.

It knows no text and no model, only token ids, a scheduler and a runner; it is driven by the messages
that come down one socket, and ends when that is closed.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from server.engine import messages
from server.engine.messages import (
    Abort,
    Command,
    Embed,
    Failed,
    FillMask,
    Generate,
    Idle,
    Setup,
    Stepped,
    frame,
)
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Results, Runner, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage, Sequence

logger = logging.getLogger(__name__)


class Loop:
    """One thread, one step at a time. Requests join and leave between steps."""

    def __init__(self, link: socket.socket, scheduler: Scheduler, runner: Runner) -> None:
        self._link = link
        self._scheduler = scheduler
        self._runner = runner
        self._received = bytearray()

    def run(self) -> None:
        """Serve until the other side closes the socket."""
        with suppress(ConnectionError):  # closed while something was being said
            self._serve()

    def _serve(self) -> None:
        idle = True
        while self._receive(wait=idle):
            step = self._scheduler.next_step()
            if step is not None:
                self._link.sendall(frame(self._run(step)))
            elif not idle:
                self._link.sendall(frame(Idle([self._load(model) for model in self._scheduler.lanes])))
            idle = step is None

    def _receive(self, *, wait: bool) -> bool:
        """Take in every command that has arrived; False when there will be no more."""
        while wait or select.select([self._link], [], [], 0)[0]:
            data = self._link.recv(1 << 20)
            if not data:
                return False
            self._received += data
            for command in self._complete():
                self._take(command)
                wait = False  # there may be something to do now
        return True

    def _complete(self) -> Iterator[Command]:
        header = messages.LENGTH.size
        while len(self._received) >= header:
            end = header + messages.LENGTH.unpack(self._received[:header])[0]
            if len(self._received) < end:
                return
            content = bytes(self._received[header:end])
            del self._received[:end]
            yield messages.decode_command(content)

    def _take(self, command: Command) -> None:
        match command:
            case Generate():
                self._generate(command)
            case FillMask() | Embed():
                passage = Passage(id=command.id, tokens=command.tokens, work=command.work)
                self._scheduler.encode(command.model, passage)
            case Abort():
                self._scheduler.abort(command.id)
            case Setup():
                raise AssertionError("the models are loaded already")

    def _generate(self, command: Generate) -> None:
        sequence = Sequence(
            id=command.id,
            tokens=command.tokens,
            max_new_tokens=command.max_new_tokens,
            sampling=command.sampling,
            stop_tokens=frozenset(command.stop_tokens),
        )
        try:
            self._scheduler.generate(command.model, sequence)
        except ValueError as error:
            self._link.sendall(frame(Failed([command.id], str(error))))

    def _run(self, step: Step) -> Stepped | Failed:
        started = time.perf_counter()
        try:
            results = self._runner.run(step)
        except Exception as error:
            logger.exception("a step of %s failed", step.model)
            for id_ in step.ids:
                self._scheduler.abort(id_)
            return Failed(step.ids, f"{type(error).__name__} while running {step.model}")
        self._scheduler.apply(step, results)
        return self._report(step, results, time.perf_counter() - started)

    def _report(self, step: Step, results: Results, seconds: float) -> Stepped:
        answers = _sampled(step, results) if isinstance(step, DecodeStep) else _encoded(results)
        return Stepped(seconds, self._load(step.model), list(answers))

    def _load(self, model: str) -> messages.Load:
        lane = self._scheduler.lanes[model]
        blocks = lane.blocks if isinstance(lane, GenerationLane) else None
        return messages.Load(
            model=model,
            running=lane.num_running,
            waiting=lane.num_waiting,
            preemptions=lane.preemptions if isinstance(lane, GenerationLane) else 0,
            blocks_used=blocks.num_blocks - blocks.num_free if blocks else 0,
            blocks_total=blocks.num_blocks if blocks else 0,
        )


def _sampled(step: DecodeStep, results: Results) -> Iterator[messages.Answer]:
    for piece in step.slices:
        id_ = piece.sequence.id
        if id_ in results.sampled:
            one = results.sampled[id_]
            yield messages.Sampled(id_, one.tokens, piece.sequence.finish_reason)


def _encoded(results: Results) -> Iterator[messages.Answer]:
    for id_, one in results.encoded.items():
        yield messages.MaskScores(id_, one.masks) if one.masks else messages.Vector(id_, one.vector)

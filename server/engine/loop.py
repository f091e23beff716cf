"""The engine's own loop: take what was asked, plan a step, run it, hand out what it gave.

It knows no text and no model, only token ids, a scheduler and a runner; it is driven by the messages
that come down one socket, and ends when that is closed.
"""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress

from server.engine import messages
from server.engine.adapters import Adapters, attach
from server.engine.compiling import Compiling, Grammars
from server.engine.exchange import answers, check_complete, to_passage, to_sequence
from server.engine.inbox import Inbox
from server.engine.messages import (
    Abort,
    Attach,
    Command,
    Detach,
    Embed,
    Event,
    Failed,
    FillMask,
    Generate,
    Idle,
    Refused,
    Setup,
    Stepped,
    frame,
)
from server.errors import InvalidRequest, Overloaded, ServerError
from server.request import FinishReason, Grammar
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import Results, Runner, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage, Sequence

GRAMMAR_POLL_S = 0.005  # how often an idle loop looks whether a grammar is ready

logger = logging.getLogger(__name__)


class Loop:
    """One thread, one step at a time. Requests join and leave between steps."""

    def __init__(
        self,
        link: socket.socket,
        scheduler: Scheduler,
        runner: Runner,
        grammars: Grammars,
        adapters: Adapters,
    ) -> None:
        self._link = link
        self._inbox = Inbox(link)
        self._scheduler = scheduler
        self._runner = runner
        self._grammars = grammars
        self._adapters = adapters
        self._compiling = Compiling(grammars)
        self._constrained = dict[int, str]()  # id to model

    def run(self) -> None:
        """Serve until the other side closes the socket."""
        with suppress(ConnectionError):  # closed while something was being said
            self._serve()

    def _serve(self) -> None:
        idle = True
        while (commands := self._inbox.take(wait_s=self._patience(idle))) is not None:
            for command in commands:
                self._take(command)
            self._join_compiled()
            self._expire()
            step = self._scheduler.next_step()
            if step is not None:
                self._say(self._run(step))
            elif not idle:
                self._say(Idle([self._load(model) for model in self._scheduler.lanes]))
            idle = step is None

    def _patience(self, idle: bool) -> float | None:
        """How long to wait for commands, in seconds: there may be something else to do."""
        if not idle:
            return 0.0
        return GRAMMAR_POLL_S if self._compiling else None

    def _say(self, event: Event) -> None:
        self._link.sendall(frame(event))

    def _take(self, command: Command) -> None:
        match command:
            case Generate(grammar=Grammar() as grammar):
                self._compile(command, grammar)
            case Generate():
                self._admit(command, to_sequence(command))
            case FillMask() | Embed():
                self._admit(command, to_passage(command))
            case Abort():
                self._compiling.forget(command.id)
                self._scheduler.abort(command.id)
                self._release(command.id)
            case Attach():
                self._say(attach(self._adapters, command))
            case Detach():
                self._adapters.detach(command.model, command.lora)
            case Setup():
                raise AssertionError("the models are loaded already")

    def _admit(self, command: Generate | FillMask | Embed, item: Sequence | Passage) -> None:
        """Queue it, or say why not."""
        try:
            self._check_deadline(command, item)
            self._queue(command.model, item)
        except Overloaded as error:
            self._release(command.id)
            self._refuse(command.id, error)
        except ValueError as error:  # it could never finish, here
            self._release(command.id)
            self._say(Refused(command.id, str(error)))

    def _check_deadline(self, command: Generate | FillMask | Embed, item: Sequence | Passage) -> None:
        """Raises Overloaded where not even the first token, or the answer, is to be expected in time."""
        if command.standing.deadline is None:
            return
        left_s = command.standing.deadline - time.monotonic()
        wait_s = self._scheduler.seconds_until_first(item, command.model) or 0.0
        if left_s <= 0.0:
            raise Overloaded(wait_s, "`timeout` passed before the text could be begun")
        if wait_s > left_s:
            what = "first token" if isinstance(item, Sequence) else "answer"
            about_s = max(wait_s, 0.01)
            raise Overloaded(wait_s, f"`timeout` cannot be met: the {what} is about {about_s:.2f} s away")

    def _queue(self, model: str, item: Sequence | Passage) -> None:
        """Raises ValueError where it could never finish."""
        if isinstance(item, Sequence):
            self._scheduler.generate(model, item)
        else:
            self._scheduler.encode(model, item)

    def _compile(self, command: Generate, grammar: Grammar) -> None:
        try:
            self._compiling.begin(command, grammar)
        except ServerError as error:
            self._refuse(command.id, error)

    def _join_compiled(self) -> None:
        """Sequences whose grammar is ready join the others; those whose grammar is none are refused."""
        for command, compiled in self._compiling.take_done():
            error = compiled.exception()
            if error is not None:
                self._refuse(command.id, error)
                continue
            self._grammars.hold(command.model, command.id, compiled.result(), frozenset(command.stop_tokens))
            self._constrained[command.id] = command.model
            self._admit(command, to_sequence(command))

    def _refuse(self, id_: int, error: BaseException) -> None:
        match error:
            case InvalidRequest():
                self._say(Refused(id_, str(error), parameter=error.parameter))
            case Overloaded():
                self._say(Refused(id_, str(error), retry_after_s=error.retry_after_s))
            case _:
                logger.error("compiling a grammar failed", exc_info=error)
                self._say(Failed([id_], f"{type(error).__name__} while compiling a grammar"))

    def _expire(self) -> None:
        now = time.monotonic()
        for late in self._compiling.take_late(now):
            self._say(messages.Sampled(late.id, (), FinishReason.TIMEOUT))
        for expired in self._scheduler.expire(now):
            if isinstance(expired, Sequence):
                self._release(expired.id)
                self._say(messages.Sampled(expired.id, (), FinishReason.TIMEOUT))
            else:
                self._say(Refused(expired.id, "`timeout` passed before the text's turn", retry_after_s=0.0))

    def _run(self, step: Step) -> Stepped | Failed:
        started = time.perf_counter()
        try:
            results = self._runner.run(step)
            check_complete(step, results)
        except Exception as error:
            logger.exception("a step of %s failed", step.model)
            for id_ in step.ids:
                self._scheduler.abort(id_)
                self._release(id_)
            return Failed(step.ids, f"{type(error).__name__} while running {step.model}")
        seconds = time.perf_counter() - started
        self._drop_failed(results)
        for finished in self._scheduler.apply(step, results, seconds):
            self._release(finished.id)
        return self._report(step, results, seconds)

    def _drop_failed(self, results: Results) -> None:
        for id_, sampled in results.sampled.items():
            if sampled.failure is not None:
                self._scheduler.abort(id_)
                self._release(id_)
                self._say(Refused(id_, sampled.failure, parameter="grammar"))

    def _release(self, id_: int) -> None:
        model = self._constrained.pop(id_, None)
        if model is not None:
            self._grammars.forget(model, id_)

    def _report(self, step: Step, results: Results, seconds: float) -> Stepped:
        return Stepped(seconds, self._load(step.model), list(answers(step, results)))

    def _load(self, model: str) -> messages.Load:
        lane = self._scheduler.lanes[model]
        if not isinstance(lane, GenerationLane):
            return messages.Load(model=model, running=lane.num_running, waiting=lane.num_waiting)
        return messages.Load(
            model=model,
            running=lane.num_running,
            waiting=lane.num_waiting,
            preemptions=lane.preemptions,
            blocks_used=lane.blocks.num_blocks - lane.blocks.num_free,
            blocks_total=lane.blocks.num_blocks,
            cached_tokens=lane.cached_tokens,
            drafted_tokens=lane.drafted_tokens,
            accepted_tokens=lane.accepted_tokens,
        )

"""The HTTP process's end of the socketpair: commands go out, each answer goes to whoever asked."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from server.engine import messages
from server.engine.messages import (
    Abort,
    Attach,
    Detach,
    Embed,
    Failed,
    FillMask,
    Generate,
    Idle,
    LoadFailed,
    Ready,
    Refused,
    Stepped,
    frame,
)
from server.engine.stats import ModelStats, Stats
from server.errors import EngineFailed, NotReady

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """The request will not be answered."""

    id: int
    reason: str


Answer = messages.Answer | Refused | Lost


class Link:
    """Start it with `connect`; `ready` then waits for the models. Closing the socket ends the engine."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self.models: Ready | None = None
        self.last_step_at: dict[str, float] = {}  # by model, in the event loop's time
        self.gone: str | None = None  # why the engine will not answer any more
        self._answers: dict[int, asyncio.Queue[Answer]] = {}
        self._ids = itertools.count(1)
        self._loaded = asyncio.Event()
        self._lost = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def connect(self, end: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=end)
        self._reading = asyncio.create_task(self._read(reader))

    async def ready(self) -> Ready:
        """Wait until the models are loaded. Raises NotReady if they never will be."""
        await self._loaded.wait()
        if self.models is None:
            raise NotReady(self.gone or "the engine has stopped")
        return self.models

    async def lost(self) -> str:
        """Wait until the engine will not answer any more; why."""
        await self._lost.wait()
        return self.gone or "the engine process has stopped"

    async def close(self) -> None:
        """End the engine: it stops when its socket closes."""
        self.gone = self.gone or "the server is shutting down"
        self._writer.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def new_id(self) -> int:
        return next(self._ids)

    @contextmanager
    def asked(self, command: Generate | FillMask | Embed | Attach) -> Iterator[asyncio.Queue[Answer]]:
        """Send a command; its answers come through the queue. Leaving before the last one aborts it."""
        if self.gone is not None:
            raise EngineFailed(self.gone)
        answers = self._answers[command.id] = asyncio.Queue[Answer]()
        self._writer.write(frame(command))
        try:
            yield answers
        finally:
            if self._answers.pop(command.id, None) is not None and self.gone is None:
                self._writer.write(frame(Abort(command.id)))

    def tell(self, command: Detach) -> None:
        """Send what is not answered. To an engine that is gone, nothing."""
        if self.gone is None:
            self._writer.write(frame(command))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (length,) = messages.LENGTH.unpack(await reader.readexactly(messages.LENGTH.size))
                self._receive(messages.decode_event(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:
            logger.exception("the engine process sent what cannot be understood")
        finally:
            self._lose_all("the engine process has stopped")

    def _receive(self, event: messages.Event) -> None:
        match event:
            case Ready():
                self.models = event
                self._loaded.set()
            case LoadFailed():
                self._lose_all(event.reason)
            case Idle():
                self._gauge(event.loads)
            case Stepped():
                self._count(event)
        for answer in _answers(event):
            self._answer(answer.id, answer)

    def _answer(self, id_: int, answer: Answer) -> None:
        answers = self._answers.get(id_)
        if answers is None:  # it was aborted while the step ran
            return
        answers.put_nowait(answer)
        if not isinstance(answer, messages.Sampled) or answer.finish is not None:
            del self._answers[id_]

    def _count(self, event: Stepped) -> None:
        self.last_step_at[event.load.model] = asyncio.get_running_loop().time()
        self.stats.steps += 1
        self.stats.step_seconds.observe(event.seconds)
        self._gauge([event.load])

    def _gauge(self, loads: Sequence[messages.Load]) -> None:
        for load in loads:
            model = self.stats.models.setdefault(load.model, ModelStats())
            model.running, model.waiting = load.running, load.waiting
            model.preemptions = load.preemptions
            model.blocks_used, model.blocks_total = load.blocks_used, load.blocks_total
            model.cached_tokens = load.cached_tokens
            model.drafted_tokens, model.accepted_tokens = load.drafted_tokens, load.accepted_tokens

    def _lose_all(self, reason: str) -> None:
        self.gone = self.gone or reason
        for id_ in list(self._answers):
            self._answer(id_, Lost(id_, self.gone))
        self._loaded.set()
        self._lost.set()


def _answers(event: messages.Event) -> Sequence[Answer]:
    """What an event says to requests."""
    match event:
        case Stepped():
            return event.answers
        case Refused() | messages.Sampled() | messages.Attached():
            return [event]
        case Failed():
            return [Lost(id_, event.reason) for id_ in event.ids]
        case _:
            return []

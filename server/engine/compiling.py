"""Requests whose grammar is being compiled: they are in no queue yet, and nobody waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from server.engine.messages import Generate
from server.request import Grammar

Compiled = tuple[Generate, Future[Any]]


class Grammars(Protocol):
    """Compiles grammars beside the loop, and holds sequences to them; really `execution.Constraints`.

    `compile` and its future raise a ServerError for a grammar that cannot be followed, or not now.
    """

    def compile(self, model: str, grammar: Grammar) -> Future[Any]: ...
    def hold(self, model: str, id_: int, compiled: Any, stop_tokens: frozenset[int]) -> None: ...
    def forget(self, model: str, id_: int) -> None: ...


class Compiling:
    """By id. Whoever leaves, for whatever reason, does not come back when its grammar is ready."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._waiting = dict[int, Compiled]()

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, command: Generate, grammar: Grammar) -> None:
        """Raises what `Grammars.compile` does."""
        self._waiting[command.id] = command, self._grammars.compile(command.model, grammar)

    def forget(self, id_: int) -> None:
        """It is wanted no more; unknown ones are no error. The grammar is compiled to the end: others may
        want it."""
        self._waiting.pop(id_, None)

    def take_done(self) -> Iterator[Compiled]:
        """Those whose future is done."""
        for id_ in [id_ for id_, (_, compiled) in self._waiting.items() if compiled.done()]:
            yield self._waiting.pop(id_)

    def take_late(self, now: float) -> Iterator[Generate]:
        """Those whose deadline is at `now` or before, in seconds of the monotonic clock."""
        for id_ in [id_ for id_, (command, _) in self._waiting.items() if _is_late(command, now)]:
            yield self._waiting.pop(id_)[0]


def _is_late(command: Generate, now: float) -> bool:
    deadline = command.standing.deadline
    return deadline is not None and deadline <= now

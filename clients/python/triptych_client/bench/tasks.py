"""Tasks that end with the block that started them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Work = Coroutine[Any, Any, None]


class Spawn:
    """Starts tasks and keeps hold of those that run, as asyncio asks of whoever creates one."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._first_error: BaseException | None = None

    def __call__(self, work: Work) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._first_error = self._first_error or task.exception()

    async def settle(self) -> None:
        """Wait for all, or until one fails. Raises what it has raised."""
        while self._running and self._first_error is None:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_EXCEPTION)
        self.raise_first_error()

    async def cancel(self) -> None:
        """Returns when all have ended."""
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(self._running)

    def raise_first_error(self) -> None:
        if self._first_error is not None:
            raise self._first_error


@asynccontextmanager
async def spawning() -> AsyncIterator[Spawn]:
    """What is spawned inside is awaited at the end; where it or the block fails, all is cancelled."""
    spawn = Spawn()
    try:
        yield spawn
        await spawn.settle()
    finally:
        await spawn.cancel()


@asynccontextmanager
async def meanwhile(*works: Work) -> AsyncIterator[None]:
    """Works run while the block runs, and are cancelled at its end."""
    spawn = Spawn()
    for work in works:
        spawn(work)
    try:
        yield
    finally:
        await spawn.cancel()
    spawn.raise_first_error()


async def sleep_until(due_s: float) -> None:
    """`due_s` is of `time.perf_counter`."""
    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))

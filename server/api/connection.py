"""Work that lives as long as somebody waits for it: a hang-up, an error or a shutdown ends all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")

QUEUED_ITEMS = 16  # of a merged stream: enough to keep every source moving, few enough for back-pressure


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Finish `work`, or cancel it as soon as the client hangs up and raise `ClientGone`.

    `receive` is the connection's, its body already read.
    """
    working = asyncio.create_task(work)
    listening = asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await stop_tasks(working, listening)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def stop_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs, and wait until all of it has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def every(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first failure cancels the rest."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await stop_tasks(*tasks)


def merge(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """The items of all streams as they come, each with its stream's index; the first failure ends all."""
    return _alone(streams[0]) if len(streams) == 1 else _together(streams)


async def _alone(stream: AsyncGenerator[T]) -> AsyncGenerator[tuple[int, T]]:
    """Most streams are: a task and a queue would cost each item of theirs a fifth of its way to the wire."""
    async with aclosing(stream) as items:
        async for item in items:
            yield 0, item


async def _together(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(QUEUED_ITEMS)

    async def drain(index: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put((index, item))
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(drain(index, stream)) for index, stream in enumerate(streams)]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        await stop_tasks(*tasks)

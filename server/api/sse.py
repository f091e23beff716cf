"""Server-sent events: a stream of payloads becomes a response that no proxy, pause or failure can spoil.

Headers wait for the first event or the first heartbeat, so that a failure before it is a real HTTP status;
a failure after it is an event of its own, never a bare close. Closing the connection closes the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.api.connection import ClientGone, stop_tasks, unless_gone
from server.errors import NotReady

HEARTBEAT = b": keep-alive\n\n"
DONE = b"[DONE]"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Failure = Callable[[Exception], Iterable[bytes]]
"""What a dialect says when a stream breaks: the payloads of its last events."""


def frame(stream: bytes, number: int, payload: bytes) -> bytes:
    """One event. `payload` is one line; `stream:number` is what a client sends back as `Last-Event-ID`."""
    return b"id: %b:%d\ndata: %b\n\n" % (stream, number, payload)


class EventStream(StreamingResponse):
    """`payloads`, each framed as an event of `stream`, with a comment after each `heartbeat_s` of silence.

    Errors of `payloads` before its first one propagate (and become a status); later ones become the
    events that `failure` returns. `payloads` is closed when the response ends, however it ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        payloads: AsyncGenerator[bytes],
        *,
        stream: str,
        failure: Failure,
        heartbeat_s: float,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(payloads, headers={**HEADERS, **headers})
        self._payloads = payloads
        self._stream = stream.encode()
        self._failure = failure
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = _Wire(send, self)
        async with aclosing(self._payloads):
            try:
                await unless_gone(receive, self._run(wire))
            except ClientGone:
                return
            except asyncio.CancelledError:  # the server stops, and will not wait for this stream
                if wire.started:
                    await self._fail(wire, NotReady("the server is shutting down"))
                raise

    async def _run(self, wire: _Wire) -> None:
        beating = asyncio.create_task(wire.beat(self._heartbeat_s))
        try:
            await self._pump(wire)
        finally:
            await stop_tasks(beating)

    async def _pump(self, wire: _Wire) -> None:
        try:
            async for payload in self._payloads:
                await wire.event(self._stream, payload)
        except ClientGone:
            raise
        except Exception as error:
            if not wire.started:
                raise
            await self._fail(wire, error)
        else:
            await wire.end()

    async def _fail(self, wire: _Wire, error: Exception) -> None:
        for payload in self._failure(error):
            await wire.event(self._stream, payload)
        await wire.end()


class _Wire:
    """The sending side of one response: the start once and first, then whole events, one writer at a time."""

    def __init__(self, send: Send, response: StreamingResponse) -> None:
        self._send = send
        self._response = response
        self._turn = asyncio.Lock()  # the events and the heartbeat write from two tasks
        self._events = 0
        self._last_write = asyncio.get_running_loop().time()
        self.started = False

    async def event(self, stream: bytes, payload: bytes) -> None:
        self._events += 1
        await self._write(frame(stream, self._events, payload))

    async def beat(self, every_s: float) -> None:
        """Write a comment whenever nothing was written for `every_s`. Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            silence = loop.time() - self._last_write
            if silence >= every_s:
                await self._write(HEARTBEAT)
            else:
                await asyncio.sleep(every_s - silence)

    async def end(self) -> None:
        await self._write(b"", more=False)

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        async with self._turn:
            try:
                if not self.started:
                    self.started = True
                    await self._send(self._start())
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
            except OSError as error:
                raise ClientGone from error
            self._last_write = asyncio.get_running_loop().time()

    def _start(self) -> dict[str, object]:
        return {
            "type": "http.response.start",
            "status": self._response.status_code,
            "headers": self._response.raw_headers,
        }

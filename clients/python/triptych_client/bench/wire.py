"""HTTP/1.1 for little processor time, so that measuring a server does not take from it what it runs on.

httpx's own transport costs a third of a millisecond for each piece of a stream; this one takes its place for
plain `http://` and knows no more than a load needs: it sends a body whole, and reads one that comes by its
length, in chunks, or until the connection closes (RFC 9112). Redirects, cookies and JSON remain httpx's part.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

MAX_HEAD_BYTES = 64 * 1024
PIECE_BYTES = 64 * 1024  # of a body without chunks
NO_BODY = (204, 304)
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")

Headers = list[tuple[bytes, bytes]]


class LeanTransport(httpx.AsyncBaseTransport):
    """Keeps every connection that may be kept. Raises what httpx's own transport would raise."""

    def __init__(self) -> None:
        self._idle: list[_Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "http":
            raise httpx.UnsupportedProtocol(f"{request.url.scheme}:// is not spoken here")
        timeout_s: dict[str, float | None] = request.extensions.get("timeout", {})
        connection = self._take_idle() or await _connect(request.url, timeout_s.get("connect"))
        connection.longest_silence_s = timeout_s.get("read")
        try:
            connection.send(_head(request) + await request.aread())
            return await self._answer(connection)
        except BaseException:
            connection.close()
            raise

    async def aclose(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _answer(self, connection: _Connection) -> httpx.Response:
        status, headers, persistent = await _read_head(connection)
        pieces, framed = _body(status, dict(headers), connection)
        body = _Body(pieces, connection, self._idle.append if persistent and framed else None)
        return httpx.Response(status, headers=headers, stream=body)


class _Body(httpx.AsyncByteStream):
    """Gives the connection back once it has been read to its end; before that, closing it hangs up."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        connection: _Connection,
        give_back: Callable[[_Connection], None] | None,
    ) -> None:
        self._pieces, self._connection, self._give_back = pieces, connection, give_back
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece
        self._whole = True

    async def aclose(self) -> None:
        if self._whole and self._give_back is not None and self._connection.open:
            self._give_back(self._connection)
        else:
            self._connection.close()
        self._give_back = None


class _Connection(asyncio.Protocol):
    """A socket, and the bytes that have come over it and were not taken yet."""

    def __init__(self) -> None:
        self.longest_silence_s: float | None = None
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._lost: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._wake()

    def eof_received(self) -> None:
        self._lose(httpx.RemoteProtocolError("the server closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self.eof_received()
        else:
            self._lose(httpx.ReadError(str(error)))

    # What a request does.

    @property
    def open(self) -> bool:
        """Whether another request may be sent; bytes that nobody asked for speak against it."""
        return self._lost is None and not self._received

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        self._lose(httpx.ReadError("closed by this side"))
        if self._transport is not None:
            self._transport.abort()

    async def until(self, end: bytes, *, most: int) -> bytes:
        """What comes before `end`, both taken. Raises RemoteProtocolError after `most` bytes without it."""
        searched = 0
        while (at := self._received.find(end, searched)) < 0:
            if len(self._received) > most:
                raise httpx.RemoteProtocolError(f"no end of a head within {most} bytes")
            searched = max(0, len(self._received) - len(end) + 1)
            await self._more()
        return self._take(at + len(end))[:at]

    async def exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            await self._more()
        return self._take(count)

    async def at_most(self, count: int) -> bytes:
        """At least one byte, or none where the server has closed the connection in good order."""
        try:
            while not self._received:
                await self._more()
        except httpx.RemoteProtocolError:
            return b""
        return self._take(min(count, len(self._received)))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def _more(self) -> None:
        if self._lost is not None:
            raise self._lost
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        silence = self.longest_silence_s
        alarm = None if silence is None else loop.call_later(silence, self._give_up)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if alarm is not None:
                alarm.cancel()

    def _give_up(self) -> None:
        self._lose(httpx.ReadTimeout(f"nothing came for {self.longest_silence_s} seconds"))

    def _lose(self, why: Exception) -> None:
        self._lost = self._lost or why
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._lost)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


async def _connect(url: httpx.URL, timeout_s: float | None) -> _Connection:
    loop = asyncio.get_running_loop()
    making: Awaitable[Any] = loop.create_connection(_Connection, url.host, url.port or 80)
    try:
        _, connection = await asyncio.wait_for(making, timeout_s)
    except asyncio.TimeoutError as error:  # another class than the builtin one before Python 3.11
        raise httpx.ConnectTimeout(f"no connection within {timeout_s} seconds") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    assert isinstance(connection, _Connection)
    return connection


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _read_head(connection: _Connection) -> tuple[int, Headers, bool]:
    """Status and headers of the answer, names in lower case; whether the connection may be kept after it."""
    while True:
        first, *lines = (await connection.until(b"\r\n\r\n", most=MAX_HEAD_BYTES)).split(b"\r\n")
        version, _, rest = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise httpx.RemoteProtocolError(f"expected an HTTP/1.1 status line, found {first[:80]!r}")
        if int(rest[:3]) >= 200:  # what is less only announces an answer
            break
    headers = [(name.strip().lower(), value.strip()) for name, _, value in (x.partition(b":") for x in lines)]
    wish = dict(headers).get(b"connection", b"").lower()
    return int(rest[:3]), headers, wish != b"close" if version == b"HTTP/1.1" else wish == b"keep-alive"


def _body(
    status: int, headers: dict[bytes, bytes], connection: _Connection
) -> tuple[AsyncIterator[bytes], bool]:
    """The pieces of the body, and whether its end can be told from the connection's."""
    if headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked"):
        return _chunks(connection), True
    if status in NO_BODY:
        return _counted(connection, 0), True
    if b"content-length" in headers:
        length = headers[b"content-length"]
        if not length.isdigit():
            raise httpx.RemoteProtocolError(f"content-length is {length[:40]!r}, which is no number")
        return _counted(connection, int(length)), True
    return _to_the_end(connection), False


async def _chunks(connection: _Connection) -> AsyncIterator[bytes]:
    while size := _chunk_size(await connection.until(b"\r\n", most=MAX_HEAD_BYTES)):
        yield (await connection.exactly(size + 2))[:-2]
    while await connection.until(b"\r\n", most=MAX_HEAD_BYTES):  # trailers
        pass


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not CHUNK_SIZE.fullmatch(digits):
        raise httpx.RemoteProtocolError(f"the size of a chunk is {digits[:40]!r}, which is none")
    return int(digits, 16)


async def _counted(connection: _Connection, length: int) -> AsyncIterator[bytes]:
    while length:
        piece = await connection.exactly(min(length, PIECE_BYTES))
        length -= len(piece)
        yield piece


async def _to_the_end(connection: _Connection) -> AsyncIterator[bytes]:
    while piece := await connection.at_most(PIECE_BYTES):
        yield piece

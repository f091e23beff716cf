"""The load generator's own HTTP/1.1: every framing, however it is cut; and nothing but httpx's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.clients.bench_servers import in_pieces
from triptych_client.bench.wire import LeanTransport

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def speaking(serve: Serve) -> AsyncIterator[tuple[httpx.AsyncClient, list[bytes]]]:
    """A client of a server that reads one head after the other and leaves the answers to `serve`."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                await serve(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", transport=LeanTransport(), timeout=httpx.Timeout(5, connect=1)
    )
    async with server, client:
        yield client, heads


def saying(answer: bytes, *, size: int = 1 << 16, close: bool = False) -> Serve:
    """Writes `answer` in pieces of `size` bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in in_pieces(answer, size):
            writer.write(piece)
            await asyncio.sleep(0)
        if close:
            writer.close()

    return serve


def get(answer: bytes, *, size: int = 1 << 16, close: bool = False) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with speaking(saying(answer, size=size, close=close)) as (client, _):
            return await client.get("/path?query=1")

    return asyncio.run(ask())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
FRAMINGS = {
    "length": (HEAD + b"content-length: 5\r\n\r\nhello", False),
    "chunks": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: a\r\n\r\n",
        False,
    ),
    "close": (HEAD + b"\r\nhello", True),
    "old": (b"HTTP/1.0 200 OK\r\n\r\nhello", True),
    "announced": (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 5\r\n\r\nhello", False),
}


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 16])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_body_is_whole_however_it_is_framed_and_cut(framing: str, size: int) -> None:
    answer, close = FRAMINGS[framing]
    response = get(answer, size=size, close=close)
    assert (response.status_code, response.text) == (200, "hello")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_ends_at_its_head(status: int) -> None:
    assert get(b"HTTP/1.1 %d X\r\n\r\n" % status).content == b""


def test_a_request_is_sent_as_httpx_has_made_it() -> None:
    async def ask() -> tuple[bytes, bytes]:
        bodies = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            bodies.append(await reader.readexactly(7))
            writer.write(HEAD + b"content-length: 0\r\n\r\n")

        async with speaking(serve) as (client, heads):
            await client.post("/a%20b?c=d", json={"a": 1}, headers={"authorization": "Bearer k"})
        return heads[0], bodies[0]

    head, body = asyncio.run(ask())
    assert head.startswith(b"POST /a%20b?c=d HTTP/1.1\r\n")
    lines = head.lower().split(b"\r\n")
    assert {b"authorization: bearer k", b"content-length: 7", b"content-type: application/json"} <= set(lines)
    assert sum(line.startswith(b"host: 127.0.0.1:") for line in lines) == 1
    assert body == b'{"a":1}'


def connections(answer: bytes, *, read: bool = True, close: bool = False) -> int:
    """How many connections three requests take, one after the other."""

    async def ask() -> int:
        ports = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ports.add(writer.get_extra_info("peername")[1])
            await saying(answer, close=close)(reader, writer)

        async with speaking(serve) as (client, _):
            for _ in range(3):
                async with client.stream("GET", "/") as response:
                    if read:
                        await response.aread()
                await asyncio.sleep(0.01)
        return len(ports)

    return asyncio.run(ask())


WHOLE = HEAD + b"content-length: 5\r\n\r\nhello"


def test_a_connection_is_used_again_where_it_can_be() -> None:
    assert connections(WHOLE) == 1
    assert connections(WHOLE, close=True) == 3
    assert connections(HEAD + b"connection: close\r\ncontent-length: 5\r\n\r\nhello") == 3
    assert connections(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello") == 1
    assert connections(WHOLE + b"more") == 3


def test_an_answer_that_is_left_unread_costs_the_connection() -> None:
    assert connections(WHOLE, read=False) == 3


def test_leaving_a_stream_hangs_up() -> None:
    async def ask() -> bool:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
            await reader.read()
            gone.set()

        async with speaking(serve) as (client, _):
            async with client.stream("GET", "/") as response:
                assert await anext(response.aiter_bytes()) == b"hi"
            return await asyncio.wait_for(gone.wait(), 5)

    assert asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"SSH-2.0-x\r\n\r\n", "expected an HTTP/1.1 status line, found b'SSH-2.0-x'"),
        (b"HTTP/1.1 abc\r\n\r\n", "expected an HTTP/1.1 status line"),
        (HEAD + b"content-length: -5\r\n\r\n", "content-length is b'-5', which is no number"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", "the size of a chunk is b'xyz'"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n-1\r\n", "the size of a chunk is b'-1'"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhel", "the server closed the connection"),
        (HEAD + b"content-length: 9\r\n\r\nhello", "the server closed the connection"),
        (b"HTTP/1.1 200 OK\r\n", "the server closed the connection"),
        (b"", "the server closed the connection"),
        (HEAD + b"x: " + b"y" * 70_000, "no end of a head within 65536 bytes"),
    ],
)
def test_what_is_no_http_is_told(answer: bytes, complaint: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match=complaint):
        get(answer, close=True)


def test_silence_is_a_timeout_and_each_byte_breaks_it() -> None:
    async def ask(pauses_s: list[float], patience_s: float) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(pauses_s))
            for pause_s in pauses_s:
                await asyncio.sleep(pause_s)
                writer.write(b"x")

        async with speaking(serve) as (client, _):
            return (await client.get("/", timeout=patience_s)).text

    assert asyncio.run(ask([0.05] * 6, 0.2)) == "x" * 6
    with pytest.raises(httpx.ReadTimeout, match=r"nothing came for 0\.1 seconds"):
        asyncio.run(ask([1.0], 0.1))


def test_a_closed_door_and_another_scheme_are_httpx_s_errors() -> None:
    async def ask(url: str) -> None:
        async with httpx.AsyncClient(transport=LeanTransport()) as client:
            await client.get(url)

    with pytest.raises(httpx.ConnectError):
        asyncio.run(ask("http://127.0.0.1:1/"))
    with pytest.raises(httpx.UnsupportedProtocol):
        asyncio.run(ask("https://127.0.0.1:1/"))


def test_a_server_that_is_slow_to_read_gets_the_whole_body() -> None:
    async def ask() -> int:
        received = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            while received < 4_000_000:
                received += len(await reader.read(200_000))
                await asyncio.sleep(0.001)
            writer.write(HEAD + b"content-length: 0\r\n\r\n")

        async with speaking(serve) as (client, _):
            await client.post("/", content=b"x" * 4_000_000)
        return received

    assert asyncio.run(ask()) == 4_000_000

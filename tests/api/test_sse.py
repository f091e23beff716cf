"""The seven rules of a stream: framing, headers, heartbeats, failures, and what a hang-up ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message

from server.api.app import create_app
from server.errors import EngineFailed, Overloaded
from tests.api.conftest import Served
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio

STREAM = {"inputs": "hi", "stream": True}


class Connection:
    """One request driven by hand: what it sent so far, and a plug to pull."""

    def __init__(
        self, engine: FakeEngine, path: str, body: dict[str, Any], *, heartbeat_s: float = 60
    ) -> None:
        self.sent: list[Message] = []
        self.broken = False
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        app = create_app(engine, heartbeat_s=heartbeat_s)
        self.task = asyncio.create_task(app(scope, self._incoming.get, self._send))

    async def _send(self, message: Message) -> None:
        if self.broken:
            raise OSError("broken pipe")
        self.sent.append(message)

    def hang_up(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "hi"}),
        ("/v1/completions", {"prompt": ["hi", "ho"]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
async def test_a_hang_up_ends_the_work_in_the_engine(path: str, body: dict[str, Any], stream: bool) -> None:
    engine = FakeEngine(pauses_s={1: 60})
    connection = Connection(engine, path, body | {"stream": stream})
    await connection.until(lambda: engine.running == len(body.get("prompt", "x")))
    connection.hang_up()
    await asyncio.wait_for(connection.task, 5)
    assert engine.running == 0


async def test_a_hang_up_before_the_first_token_ends_the_work_too() -> None:
    engine = FakeEngine(pauses_s={0: 60})
    connection = Connection(engine, "/generate", STREAM)
    await connection.until(lambda: engine.running == 1)
    connection.hang_up()
    await asyncio.wait_for(connection.task, 5)
    assert engine.running == 0
    assert not connection.sent


async def test_a_broken_pipe_ends_the_work() -> None:
    engine = FakeEngine(pauses_s={2: 60})
    connection = Connection(engine, "/generate", STREAM)
    connection.broken = True
    await asyncio.wait_for(connection.task, 5)
    assert engine.asked
    assert engine.running == 0


async def test_headers_wait_for_the_first_token() -> None:
    engine = FakeEngine(pauses_s={0: 0.05})
    connection = Connection(engine, "/generate", STREAM)
    await connection.until(lambda: engine.running == 1)
    assert not connection.sent
    await connection.task
    assert connection.sent[0]["status"] == 200


async def test_a_silent_stream_says_that_it_lives_before_and_between_tokens() -> None:
    engine = FakeEngine(pauses_s={0: 0.1, 2: 0.1})
    connection = Connection(engine, "/generate", STREAM, heartbeat_s=0.02)
    await asyncio.wait_for(connection.task, 5)
    events = connection.body.split(b"\n\n")
    first = next(n for n, event in enumerate(events) if event.startswith(b"id: "))
    assert first >= 1
    assert set(events[:first]) == {b": keep-alive"}
    assert b": keep-alive" in events[first:]
    assert sum(event.startswith(b"id: ") for event in events) == 3


async def test_a_stream_that_speaks_has_no_heartbeats() -> None:
    connection = Connection(FakeEngine(), "/generate", STREAM, heartbeat_s=5)
    await asyncio.wait_for(connection.task, 5)
    assert b"keep-alive" not in connection.body


async def test_after_a_heartbeat_a_failure_is_an_event() -> None:
    engine = FakeEngine(pauses_s={0: 0.05}, failure=EngineFailed("gone"))
    connection = Connection(engine, "/v1/completions", {"prompt": "hi", "stream": True}, heartbeat_s=0.02)
    await asyncio.wait_for(connection.task, 5)
    assert connection.sent[0]["status"] == 200
    assert connection.body.endswith(b"data: [DONE]\n\n")


async def test_a_failure_in_mid_stream_of_tgi_is_an_event_and_then_the_end(served: Served) -> None:
    async with served(FakeEngine(failure=EngineFailed("gone"), fails_at=1)) as client:
        response = await client.post("/generate", json=STREAM)
    assert response.status_code == 200
    _, second, rest = response.text.split("\n\n")
    assert second.splitlines()[1] == (
        'data: {"error":"Request failed during generation: gone","error_type":"generation"}'
    )
    assert rest == ""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/completions", {"prompt": ["hi", "ho"]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
async def test_a_failure_in_mid_stream_of_openai_is_an_event_and_then_done(
    served: Served, path: str, body: dict[str, Any]
) -> None:
    engine = FakeEngine(failure=EngineFailed("gone"), fails_at=1)
    async with served(engine) as client:
        response = await client.post(path, json=body | {"stream": True})
    *_, error, done, rest = response.text.split("\n\n")
    assert json.loads(error.splitlines()[1].removeprefix("data: ")) == {
        "error": {"message": "gone", "type": "InternalServerError", "param": None, "code": 500}
    }
    assert done.splitlines()[1] == "data: [DONE]"
    assert rest == ""
    assert engine.running == 0


async def test_a_bug_in_mid_stream_says_nothing_about_itself(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(FakeEngine(failure=KeyError("a secret"), fails_at=1)) as client:
        response = await client.post("/generate", json=STREAM)
    assert '{"error":"Internal error","error_type":"internal"}' in response.text
    assert "a secret" not in response.text
    assert "a secret" in caplog.text


async def test_a_late_refusal_is_a_status_as_well(served: Served) -> None:
    engine = FakeEngine(failure=Overloaded(3), fails_at=0)
    async with served(engine) as client:
        response = await client.post("/generate", json=STREAM)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"


async def test_a_server_that_stops_tells_its_open_streams() -> None:
    engine = FakeEngine(pauses_s={1: 60})
    connection = Connection(engine, "/generate", STREAM)
    await connection.until(lambda: b"Hel" in connection.body)
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task
    assert b'{"error":"the server is shutting down","error_type":"healthcheck"}\n\n' in connection.body
    assert connection.sent[-1]["more_body"] is False
    assert engine.running == 0


async def test_every_event_is_numbered_within_its_stream(served: Served) -> None:
    async with served(FakeEngine()) as client:
        response = await client.post("/v1/completions", json={"prompt": "hi", "stream": True})
    ids = [line.removeprefix("id: ") for line in response.text.splitlines() if line.startswith("id: ")]
    stream = ids[0].rpartition(":")[0]
    assert ids == [f"{stream}:{number}" for number in range(1, 5)]
    assert stream in response.text.splitlines()[1]  # the id of the completion itself

"""A real HTTP server on loopback that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`chunks` are sent as they are drawn. An answer that is not `whole` breaks off after the last one."""

    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: Callable[[], Iterable[bytes]] = tuple
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class ScriptedServer:
    """Paths without a script are answered by 404 in TGI's words."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.hung_up = threading.Event()  # a client closed its connection while it was being answered
        self._scripts: dict[str, list[Answer]] = {}

    def on(self, path: str, *answers: Answer) -> None:
        """One answer after the other; the last one is for all that come later."""
        self._scripts[path] = list(answers)

    def next_answer(self, path: str) -> Answer:
        script = self._scripts.get(path)
        if script is None:
            return says({"error": f"no route {path}", "error_type": "not_found"}, status=404)
        return script.pop(0) if len(script) > 1 else script[0]


def says(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """JSON, or plain text for a string."""
    if isinstance(content, str):
        return Answer(status=status, content_type="text/plain", chunks=lambda: [content.encode()])
    return Answer(status=status, headers=headers or {}, chunks=lambda: [json.dumps(content).encode()])


def streams(*events: object, headers: Mapping[str, str] | None = None, whole: bool = True) -> Answer:
    """Server-sent events: JSON each, or as it stands for a string."""
    return Answer(
        content_type="text/event-stream; charset=utf-8",
        headers=headers or {},
        chunks=lambda: [sse(event) for event in events],
        whole=whole,
    )


def sse(event: object) -> bytes:
    data = event if isinstance(event, str) else json.dumps(event)
    return f"data: {data}\n\n".encode()


def token_event(number: int, text: str, *, whole: str | None = None, **details: object) -> dict[str, object]:
    """An event of TGI's dialect; with `whole`, the final one."""
    token = {"id": number, "text": text, "logprob": -0.5, "special": text == "</s>"}
    return {"index": number, "token": token, "generated_text": whole, "details": details or None}


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128  # a burst of connections is not refused on a busy machine
    script: ScriptedServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client may leave between two requests as well
            super().handle()

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, body: Any) -> None:
        script = self.server.script
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.asked.append(Asked(method=self.command, path=self.path, headers=headers, body=body))
        try:
            self._send(script.next_answer(self.path))
        except OSError:  # a broken pipe or a reset, as the kernel likes
            script.hung_up.set()
            self.close_connection = True

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("transfer-encoding", "chunked")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in answer.chunks():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if answer.whole:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    with _Listener(("127.0.0.1", 0), _Handler) as listener:
        listener.script = ScriptedServer(f"http://127.0.0.1:{listener.server_address[1]}")
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.002})
        thread.start()
        try:
            yield listener.script
        finally:
            listener.shutdown()
            thread.join()

"""`triptych serve` as a user starts it: a process, the two default models, HTTP, and the client."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from triptych_client import Client

pytestmark = pytest.mark.defaults

START = [sys.executable, "-P", "-m", "server", "serve", "--port", "0"]


class Server:
    """A real `triptych serve` on a free port of the loopback."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen([*START, *flags], stderr=subprocess.PIPE, text=True)
        self.lines = list[str]()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = self._wait_for(r"listening on (http://\S+?),")

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 240
        while httpx.get(f"{self.url}/ready", timeout=30).status_code != 200:
            assert self.process.poll() is None, "\n".join(self.lines)
            assert time.monotonic() < deadline, "\n".join(self.lines)
            time.sleep(0.2)

    def stop(self) -> int:
        """SIGTERM, and the status it ends with; its engine process must be gone too."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(60)
        self._reader.join(10)  # ends when no process has the pipe open any more
        assert not self._reader.is_alive()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line)

    def _wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(pattern, "".join(self.lines)):
                return found[1]
            time.sleep(0.05)
        raise AssertionError("\n".join(self.lines))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    try:
        server.wait_until_ready()
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, timeout=240) as client:
        yield client


def test_a_gpt_and_a_bert_answer_side_by_side(client: Client) -> None:
    assert "Paris" in client.generate("The capital of France is", max_new_tokens=8).text
    words = [one.token_str for one in client.fill_mask("Paris is the [MASK] of France.")[0]]
    assert "capital" in words
    cat, kitten, stocks = client.embed(["A cat sleeps.", "A kitten naps.", "Stocks fell."])
    assert dot(cat, kitten) > dot(cat, stocks) + 0.2


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_a_seed_gives_the_same_text_alone_in_a_crowd_and_streamed(client: Client, server: Server) -> None:
    prompts = [f"Chapter {i}. It was a dark and stormy night, and" for i in range(8)]

    def ask(i: int) -> str:
        with Client(server.url, timeout=240) as mine:
            return mine.generate(prompts[i], max_new_tokens=24, temperature=0.9, seed=i).text

    with ThreadPoolExecutor(8) as crowd:
        together = list(crowd.map(ask, range(8)))
    assert [ask(i) for i in range(8)] == together
    body = {
        "inputs": prompts[3],
        "parameters": {"max_new_tokens": 24, "temperature": 0.9, "seed": 3},
        "stream": True,
    }
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=240) as response:
        events = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
    assert events[-1]["generated_text"] == together[3]
    assert len(events) == 24


def test_a_hang_up_frees_what_the_stream_held(server: Server) -> None:
    body = {"inputs": "Once", "parameters": {"max_new_tokens": 2000, "ignore_eos": True}, "stream": True}
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=240) as response:
        next(response.iter_lines())
    assert gauge(server, "triptych_kv_blocks_used", within_s=30) == 0


def gauge(server: Server, name: str, *, within_s: float) -> float:
    """The gauge of the decoder, once it has come to rest."""
    deadline = time.monotonic() + within_s
    while True:
        text = httpx.get(f"{server.url}/metrics", timeout=30).text
        found = re.search(rf"^{name}\{{[^}}]*smollm2[^}}]*\}} (\S+)$", text, re.MULTILINE)
        assert found is not None
        if float(found[1]) == 0 or time.monotonic() > deadline:
            return float(found[1])
        time.sleep(0.1)


def test_an_open_stream_ends_well_after_sigterm_and_the_engine_goes_too() -> None:
    server = Server("--model", "gpt=smollm2-135m-instruct", "--kv-memory", "256MiB")
    server.wait_until_ready()
    parameters = {"max_new_tokens": 40, "ignore_eos": True}
    body = {"inputs": "Once upon a time", "parameters": parameters, "stream": True}
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=240) as response:
        lines = response.iter_lines()
        events = [next(lines)]
        server.process.send_signal(signal.SIGTERM)
        events += lines
    data = [json.loads(line[5:]) for line in events if line.startswith("data:")]
    assert len(data) == 40
    assert data[-1]["generated_text"]
    assert server.wait() == 0


def test_sigterm_while_the_models_load_ends_it() -> None:
    assert Server("--model", "gpt=smollm2-135m-instruct").stop() == 0


def test_an_engine_that_dies_ends_the_server_with_its_reason() -> None:
    server = Server("--model", "bert=all-minilm-l6-v2")
    server.wait_until_ready()
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    assert server.wait() == 1
    assert "triptych: the engine process has stopped" in "".join(server.lines)


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    done = subprocess.run([*START, "--model", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr or "mamba" in done.stderr


def test_a_port_in_use_is_said_before_anything_is_loaded(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-P", "-m", "server", "serve", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"--port {port}" in done.stderr
    assert "Traceback" not in done.stderr

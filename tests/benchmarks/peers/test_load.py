"""The load, against a server whose times are known."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from tests.benchmarks.peers.load import STREAMS, Address, Stream, longest_gap_s, measure_load, tokens_per_s
from tests.benchmarks.peers.processes import Failed

PAUSE_S = 0.005  # between two tokens


def stream(sent_s: float, *arrivals_s: float) -> Stream:
    return Stream(sent_s=sent_s, arrivals_s=list(arrivals_s), tokens=len(arrivals_s))


def test_tokens_a_second_count_from_the_first_request_to_the_last_token() -> None:
    assert tokens_per_s([stream(0.0, 1.0, 2.0), stream(1.0, 2.0, 3.0, 5.0)]) == 1.0


def test_the_gap_is_the_longest_while_others_wait_for_their_first_token() -> None:
    running = stream(0.0, 1.0, 1.9, 2.1, 2.7, 2.8, 9.0)
    others = [stream(2.0, 2.2, 2.3), stream(2.0, 2.75)]
    assert longest_gap_s(running, others) == pytest.approx(0.6)


def test_a_gap_needs_a_stream_that_runs_all_along() -> None:
    with pytest.raises(Failed, match="ended before"):
        longest_gap_s(stream(0.0, 1.0, 2.0), [stream(1.5, 2.5)])


@pytest.mark.parametrize("shortage", [0, 1])
def test_the_figures_of_a_server_are_its_own(shortage: int) -> None:
    prompts = [f"prompt {number}" for number in range(3 * STREAMS)]
    with serving(shortage) as url:
        address = Address(url=url, model="one")
        if shortage:
            with pytest.raises(Failed, match=r"had 7 tokens .* instead of 8"):
                dict(measure_load(address, prompts, requests=STREAMS))
            return
        figures = dict(measure_load(address, prompts, requests=STREAMS))
    assert figures["first_token_s"] >= PAUSE_S
    assert figures["longest_gap_s"] >= PAUSE_S
    assert 100 < figures["server_32"] <= STREAMS / PAUSE_S


def test_a_refusal_says_what_the_server_said() -> None:
    with serving(0) as url, pytest.raises(Failed, match=r"404.*Not Found"):
        dict(measure_load(Address(url=f"{url}/elsewhere", model="one"), ["a"] * 96, requests=STREAMS))


@contextmanager
def serving(shortage: int) -> Iterator[str]:
    """A server that gives a token every PAUSE_S; `shortage` tokens fewer than it is asked for."""
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(body: dict[str, object]) -> StreamingResponse:
        return StreamingResponse(_events(int(str(body["max_tokens"])) - shortage))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


async def _events(tokens: int) -> AsyncIterator[str]:
    for _ in range(tokens):
        await asyncio.sleep(PAUSE_S)
        yield _event({"choices": [{"text": "a"}]})
    yield _event({"choices": [], "usage": {"completion_tokens": tokens}})
    yield "data: [DONE]\n\n"


def _event(content: dict[str, object]) -> str:
    return f"data: {json.dumps(content)}\n\n"

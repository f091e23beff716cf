"""A server of a contender: started, timed until it answers, and put under load."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from server.text.tokenizer import load_tokenizer
from tests.benchmarks.peers.contender import Server
from tests.benchmarks.peers.load import SILENCE_S, STREAMS, Address, measure_load
from tests.benchmarks.peers.processes import Command, Failed, running
from tests.benchmarks.peers.workshop import ROOT, Workshop

PROMPT_TOKENS = 64
POLL_S = 0.02
NOT_YET = (429, 503)  # what servers say while they load

# Each is one token in the vocabulary of SmolLM2, at the beginning of a text as well as behind a space.
WORDS = """
the of and to in is was that for on as with by he at from his an were are which this be or had first one their
its new after two who they have her she when time people than world over year city house water light river
"""


def measure_server(
    server: Server, workshop: Workshop, log: Path, prompts: Sequence[str], *, requests: int, limit_s: float
) -> Iterator[tuple[str, float]]:
    """Figures by name, each as soon as it is there. Raises Failed."""
    port = _free_port()
    command = Command(
        words=[*server.words, str(port)],
        log=log,
        folder=ROOT,
        variables={**workshop.variables, **server.variables},
    )
    started_s = time.perf_counter()
    with running(command) as process:
        address = Address(url=f"http://127.0.0.1:{port}", model=server.model, extras=server.extras)
        _wait_for_answer(address, process, command, until_s=started_s + limit_s)
        yield "start_s", time.perf_counter() - started_s
        yield from measure_load(address, prompts, requests=requests)


def write_prompts(model: Path, *, requests: int) -> list[str]:
    """As many as `measure_load` takes, each of exactly PROMPT_TOKENS tokens of the model at `model`."""
    tokenizer, numbers = load_tokenizer(model), random.Random(0)
    prompts = list[str]()
    while len(prompts) < requests + 2 * STREAMS:
        prompt = " ".join(numbers.choices(WORDS.split(), k=PROMPT_TOKENS))
        assert len(tokenizer.encode(prompt)) == PROMPT_TOKENS, f"{prompt!r} is not one token a word"
        prompts.append(prompt)
    return prompts


def _wait_for_answer(
    address: Address, process: subprocess.Popen[bytes], command: Command, *, until_s: float
) -> None:
    with httpx.Client(timeout=SILENCE_S, trust_env=False) as http:
        while not _answers(http, address):
            if process.poll() is not None:
                raise Failed(f"ended with status {process.returncode} before it answered: {command.said}")
            if time.perf_counter() > until_s:
                raise Failed(f"did not answer in time: {command.said}")
            time.sleep(POLL_S)


def _answers(http: httpx.Client, address: Address) -> bool:
    """One token of one short text."""
    with suppress(httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
        body = {"model": address.model, "prompt": "The", "max_tokens": 1, "temperature": 0}
        response = http.post(f"{address.url}/v1/completions", json=body)
        if response.status_code not in (200, *NOT_YET):
            raise Failed(f"answered {response.status_code}: {response.text[:300]}")
        return response.status_code == 200
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

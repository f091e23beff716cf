"""What a step costs when other programs want the same cores.

    python -m tests.benchmarks.busy_neighbours [--neighbours 2] [--streams 1 8 16] [-- FLAGS OF SERVE]

Starts the server and streams from it, first alone, then beside processes that do nothing but compute. Prints
milliseconds from token to token, which are the engine's steps: median, 99th percentile, worst. With as many
neighbours as cores, a fair share is half: twice the time. Much more than that is threads that wait for each
other while the one that they wait for does not run.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import httpx

from tests.benchmarks.startup import first_answer, free_port

TOKENS = 96
WARM_UP = 8  # tokens of each stream that are not counted: the prompts of the others are computed beside them
PROMPT = "Write down what you know of the sea, of ships, and of those who sail them."
BURN = "while True: pass"
PATIENCE_S = 300.0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--neighbours", type=int, default=2, help="processes that compute (2)")
    arguments.add_argument("--streams", type=int, nargs="+", default=[1, 8, 16], help="at a time (1 8 16)")
    arguments.add_argument("serve", nargs="*", metavar="FLAGS", help="of `triptych serve`, after --")
    parsed = arguments.parse_args()
    print("milliseconds from token to token")
    print(f"{'streams':>8} {'neighbours':>11} {'median':>8} {'p99':>8} {'worst':>8}")
    with _server(parsed.serve) as url:
        for streams in parsed.streams:
            _report(streams, 0, asyncio.run(_gaps(url, streams)))
            with _neighbours(parsed.neighbours):
                _report(streams, parsed.neighbours, asyncio.run(_gaps(url, streams)))
    return 0


def _report(streams: int, neighbours: int, gaps: Sequence[float]) -> None:
    worst = sorted(gaps)
    figures = (statistics.median(worst), worst[int(0.99 * (len(worst) - 1))], worst[-1])
    shown = " ".join(f"{1000 * figure:8.1f}" for figure in figures)
    print(f"{streams:8} {neighbours:11} {shown}", flush=True)


async def _gaps(url: str, streams: int) -> list[float]:
    """Seconds between one token and the next, of all streams."""
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        each = await asyncio.gather(*(_one(client, url, number) for number in range(streams)))
    return [gap for gaps in each for gap in gaps]


async def _one(client: httpx.AsyncClient, url: str, number: int) -> list[float]:
    parameters = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "seed": number, "temperature": 1.0}
    body = {"inputs": f"{number}. {PROMPT}", "parameters": parameters, "stream": True}
    arrived = list[float]()
    async with client.stream("POST", f"{url}/generate_stream", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                arrived.append(time.perf_counter())
    counted = arrived[WARM_UP:]
    return [later - earlier for earlier, later in pairwise(counted)]


@contextmanager
def _neighbours(count: int) -> Iterator[None]:
    """Processes that would have a core each; sessions of their own, as other people's programs are."""
    burning = [subprocess.Popen([sys.executable, "-c", BURN], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


@contextmanager
def _server(flags: Sequence[str]) -> Iterator[str]:
    """Its URL, once it answers."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "server", "serve", "--port", str(port), *flags])
    try:
        first_answer(process, f"http://127.0.0.1:{port}/generate", time.perf_counter())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())

"""The load that every server gets, over HTTP: `POST /v1/completions`, streamed, greedy, to the last token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import httpx

from tests.benchmarks.peers.processes import Failed

STREAMS = 32
TOKENS = 128
CONTEXT = 512  # of a stream, where a server wants to know: room for what is asked of it
HEAD_START = 8  # tokens that a stream has before the others arrive
LIMIT_S = 600.0  # of one part of the load
SILENCE_S = 120.0  # that no server should need


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is and what it is asked for: `extras` are fields that it alone knows."""

    url: str
    model: str
    extras: Mapping[str, object] = field(default_factory=dict)

    def body(self, prompt: str, tokens: int) -> dict[str, object]:
        asked = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return {**asked, "stream": True, "stream_options": {"include_usage": True}, **self.extras}


@dataclass(slots=True, kw_only=True)
class Stream:
    """When a request was sent and when text of it came, in seconds of one clock."""

    sent_s: float
    arrivals_s: list[float] = field(default_factory=list)
    tokens: int | None = None  # as the server counts them
    began: asyncio.Event = field(default_factory=asyncio.Event)  # it has its head start

    @property
    def first_s(self) -> float:
        return self.arrivals_s[0]


def measure_load(address: Address, prompts: Sequence[str], *, requests: int) -> Iterator[tuple[str, float]]:
    """Figures by name, each as soon as it is there. Raises Failed.

    `prompts`: `requests` + 2 * STREAMS, all different, so that no cache of prefixes helps.
    """
    warm_up, load, arriving = prompts[:STREAMS], prompts[STREAMS:][:requests], prompts[STREAMS + requests :]
    _run(_closed_loop(address, warm_up, tokens=HEAD_START))
    streams = _run(_closed_loop(address, load))
    yield "server_32", tokens_per_s(streams)
    yield "first_token_s", median(stream.first_s - stream.sent_s for stream in streams)
    first, *others = _run(_arrivals(address, arriving[:STREAMS]))
    yield "longest_gap_s", longest_gap_s(first, others)


def tokens_per_s(streams: Sequence[Stream]) -> float:
    """From the first request sent to the last token come."""
    seconds = max(one.arrivals_s[-1] for one in streams) - min(one.sent_s for one in streams)
    return sum(one.tokens or 0 for one in streams) / seconds


def longest_gap_s(running: Stream, others: Sequence[Stream]) -> float:
    """The longest that `running` waited for a token, from when the others were sent until each had its first.

    Raises Failed where that took so long that `running` ended before.
    """
    sent_s, settled_s = min(one.sent_s for one in others), max(one.first_s for one in others)
    if running.arrivals_s[-1] < settled_s:
        raise Failed("the running stream ended before the others had begun")
    return max(b - a for a, b in pairwise(running.arrivals_s) if b > sent_s and a < settled_s)


async def _closed_loop(address: Address, prompts: Sequence[str], tokens: int = TOKENS) -> list[Stream]:
    """STREAMS at a time; the next one when one ends."""
    waiting = iter(prompts)  # shared: each worker takes the next

    async def work_off(http: httpx.AsyncClient) -> list[Stream]:
        return [await _request(http, address, prompt, tokens) for prompt in waiting]

    async with _client() as http:
        done = await asyncio.gather(*(work_off(http) for _ in range(STREAMS)))
    return [stream for some in done for stream in some]


async def _arrivals(address: Address, prompts: Sequence[str]) -> list[Stream]:
    """One stream, and all others at once as soon as it has its head start."""
    first = Stream(sent_s=time.perf_counter())
    async with _client() as http:
        running = asyncio.create_task(_request(http, address, prompts[0], 2 * TOKENS, first))
        head_start = asyncio.create_task(first.began.wait())
        await asyncio.wait([running, head_start], return_when=asyncio.FIRST_COMPLETED)
        head_start.cancel()
        others = await asyncio.gather(*(_request(http, address, one, TOKENS) for one in prompts[1:]))
        return [await running, *others]


async def _request(
    http: httpx.AsyncClient, address: Address, prompt: str, tokens: int, stream: Stream | None = None
) -> Stream:
    """Raises Failed where the server does not give exactly so many tokens."""
    stream = stream or Stream(sent_s=time.perf_counter())
    async for event in _events(http, address, address.body(prompt, tokens)):
        if usage := event.get("usage"):
            stream.tokens = usage["completion_tokens"]
        if any(choice.get("text") for choice in event.get("choices", ())):
            stream.arrivals_s.append(time.perf_counter())
            if len(stream.arrivals_s) == HEAD_START:
                stream.began.set()
    if stream.tokens != tokens or not stream.arrivals_s:
        raise Failed(f"a stream had {stream.tokens} tokens by the server's count instead of {tokens}")
    return stream


async def _events(
    http: httpx.AsyncClient, address: Address, body: Mapping[str, object]
) -> AsyncIterator[dict[str, Any]]:
    async with http.stream("POST", f"{address.url}/v1/completions", json=body) as response:
        if response.status_code != 200:
            said = (await response.aread()).decode(errors="replace")
            raise Failed(f"answered {response.status_code}: {said[:300]}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def _client() -> httpx.AsyncClient:
    """A connection for each request: some servers close one that they said they would keep."""
    limits = httpx.Limits(max_connections=2 * STREAMS, max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=SILENCE_S, limits=limits, trust_env=False)


def _run(work: Coroutine[Any, Any, list[Stream]]) -> list[Stream]:
    try:
        return asyncio.run(asyncio.wait_for(work, LIMIT_S))
    except TimeoutError:
        raise Failed(f"not done with the load in {LIMIT_S:.0f} s") from None
    except httpx.HTTPError as error:
        raise Failed(f"{type(error).__name__} under load: {error}") from error

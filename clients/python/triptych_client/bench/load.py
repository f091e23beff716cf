"""Sends the load and writes down when each token came. Nothing is computed here.

Closed loop: so many streams at a time, the next one when one ends. Open loop (`rate`): streams arrive at
random (Poisson) whether or not earlier ones have ended, as they do from real users; times count from the
planned arrival, so that a server that stalls cannot hide its queue.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from triptych_client._errors import ConnectionLost, TriptychError
from triptych_client._failures import error_of
from triptych_client._sse import EventDecoder
from triptych_client._transport import expect_events, in_our_words, settings
from triptych_client.bench.dialects import Dialect

RIVAL_KEY = "rival"
FILL_MASK_TEXT = "Paris is the [MASK] of France."
WORDS = """
the of and to in is was that for on as with by he at from his an were are which this be or had first one their
its new after two who they have her she when time people than world over year city house water light river
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send.

    streams: how many at a time; in an open loop, nothing but the number that `requests` defaults to.
    requests: how many in all.
    rate: arrivals a second; None is the closed loop.
    tokens: how many to generate in each stream.
    prompt: the same for all; None makes one of `prompt_words` words for each, different from the first word
        on, so that no cache of prefixes flatters the server.
    rivals: streams of another API key beside, always so many; uncounted.
    api_key: whose requests these are.
    fill_mask_every_ms: how often to `POST /fill-mask` with `fill_mask_text` beside the streams; None: never.
    warmup: streams to send beforehand, uncounted.
    timeout_s: the longest silence.
    seed: of prompts and arrivals.
    """

    url: str
    dialect: Dialect
    streams: int = 16
    requests: int = 16
    rate: float | None = None
    tokens: int = 128
    prompt: str | None = None
    prompt_words: int = 32
    rivals: int = 0
    api_key: str | None = None
    fill_mask_every_ms: float | None = None
    fill_mask_text: str = FILL_MASK_TEXT
    warmup: int = 1
    timeout_s: float = 120.0
    seed: int = 0


@dataclass(slots=True, kw_only=True)
class StreamRecord:
    """One stream. Times in seconds on one clock; `arrivals_s` has one for each event that brought a token."""

    started_s: float
    arrivals_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    tokens: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRecord:
    """One fill-mask request beside the streams."""

    latency_s: float
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Streams in the order of their start, at least one; fill-mask requests in the order of their end."""

    plan: Plan
    streams: tuple[StreamRecord, ...]
    fills: tuple[FillRecord, ...]


async def measure(plan: Plan) -> Measurement:
    """Carry out `plan`. A request that fails is written down, not raised.

    The warm-up is the exception: a server that cannot answer at all raises its `TriptychError` there.
    """
    async with httpx.AsyncClient(**settings(plan.url, plan.timeout_s, plan.api_key)) as http:
        load = _Load(plan, http)
        for prompt in _prompts(plan, plan.warmup, salt="warm-up"):
            await load.warm_up(prompt)
        async with _rivals(plan), load.fill_masks():
            await (load.closed_loop() if plan.rate is None else load.open_loop(plan.rate))
    streams = sorted(load.streams, key=lambda record: record.started_s)
    return Measurement(plan=plan, streams=tuple(streams), fills=tuple(load.fills))


class _Load:
    def __init__(self, plan: Plan, http: httpx.AsyncClient) -> None:
        self._plan, self._http = plan, http
        self.streams: list[StreamRecord] = []
        self.fills: list[FillRecord] = []

    async def warm_up(self, prompt: str) -> None:
        await self._receive(prompt, StreamRecord(started_s=time.perf_counter()))

    async def compete(self, number: int) -> None:
        """One stream after the other, until cancelled."""
        for turn in itertools.count():
            (prompt,) = _prompts(self._plan, 1, salt=f"rival {number} {turn}")
            await self._stream(prompt, time.perf_counter())

    async def closed_loop(self) -> None:
        prompts = iter(list(_prompts(self._plan, self._plan.requests)))  # one iterator, shared by the workers
        await asyncio.gather(*(self._work_off(prompts) for _ in range(self._plan.streams)))

    async def open_loop(self, rate: float) -> None:
        arrivals = random.Random(self._plan.seed)
        due_s = time.perf_counter()
        async with _spawning() as spawn:
            for prompt in list(_prompts(self._plan, self._plan.requests)):
                await _sleep_until(due_s)
                spawn(self._stream(prompt, due_s))
                due_s += arrivals.expovariate(rate)

    @asynccontextmanager
    async def fill_masks(self) -> AsyncIterator[None]:
        """Sends fill-mask requests for as long as the block runs, then waits for their answers."""
        if self._plan.fill_mask_every_ms is None:
            yield
            return
        async with _spawning() as spawn:
            clock = asyncio.create_task(self._fill_regularly(self._plan.fill_mask_every_ms / 1000, spawn))
            try:
                yield
            finally:
                clock.cancel()

    async def _fill_regularly(self, every_s: float, spawn: _Spawn) -> None:
        due_s = time.perf_counter()
        while True:
            await _sleep_until(due_s)
            spawn(self._fill(due_s))
            due_s += every_s

    async def _work_off(self, prompts: Iterator[str]) -> None:
        for prompt in prompts:
            await self._stream(prompt, time.perf_counter())

    async def _stream(self, prompt: str, started_s: float) -> None:
        record = StreamRecord(started_s=started_s)
        self.streams.append(record)
        try:
            await self._receive(prompt, record)
        except TriptychError as error:
            record.failure = _named(error)
        record.ended_s = time.perf_counter()

    async def _receive(self, prompt: str, record: StreamRecord) -> None:
        dialect = self._plan.dialect
        body = dialect.body(prompt, self._plan.tokens)
        with in_our_words(self._plan.url, self._plan.timeout_s):
            async with self._http.stream("POST", dialect.path, json=body) as response:
                if not response.is_success:
                    raise error_of(response.status_code, await response.aread(), response.headers)
                expect_events(response)
                await self._read_events(response, record)

    async def _read_events(self, response: httpx.Response, record: StreamRecord) -> None:
        decoder, done, total = EventDecoder(), False, None
        async for chunk in response.aiter_bytes():
            now_s = time.perf_counter()
            for event in decoder.feed(chunk):
                progress = self._plan.dialect.read(event.data)
                record.arrivals_s += [now_s] * progress.tokens
                done, total = done or progress.done, progress.total or total
        record.tokens = len(record.arrivals_s) if total is None else total
        if not done:
            raise ConnectionLost(f"the stream ended without its final event, after {record.tokens} tokens")

    async def _fill(self, due_s: float) -> None:
        failure = None
        try:
            with in_our_words(self._plan.url, self._plan.timeout_s):
                response = await self._http.post("/fill-mask", json={"inputs": self._plan.fill_mask_text})
            if not response.is_success:
                raise error_of(response.status_code, response.content, response.headers)
        except TriptychError as error:
            failure = _named(error)
        self.fills.append(FillRecord(latency_s=time.perf_counter() - due_s, failure=failure))


@asynccontextmanager
async def _rivals(plan: Plan) -> AsyncIterator[None]:
    """Keeps `plan.rivals` streams open for as long as the block runs, which begins when one of them is on."""
    others = replace(plan, api_key=RIVAL_KEY, seed=plan.seed + 1)
    async with httpx.AsyncClient(**settings(plan.url, plan.timeout_s, RIVAL_KEY)) as http:
        load = _Load(others, http)
        working = [asyncio.create_task(load.compete(number)) for number in range(plan.rivals)]
        while working and not any(stream.arrivals_s or stream.failure for stream in load.streams):
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)


class _Spawn:
    """Starts tasks and keeps hold of them, as asyncio asks of whoever creates one."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def __call__(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def settle(self) -> None:
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def _spawning() -> AsyncIterator[_Spawn]:
    """What is spawned inside is awaited at the end."""
    spawn = _Spawn()
    yield spawn
    await spawn.settle()


async def _sleep_until(due_s: float) -> None:
    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))


def _prompts(plan: Plan, count: int, salt: str = "prompt") -> Iterator[str]:
    if plan.prompt is not None:
        yield from [plan.prompt] * count
        return
    choice = random.Random(f"{salt} {plan.seed}")
    for number in range(count):
        words = choice.choices(WORDS.split(), k=plan.prompt_words - 1)
        yield " ".join([f"{salt}-{number}", *words])


def _named(error: TriptychError) -> str:
    return f"{type(error).__name__}: {error}"

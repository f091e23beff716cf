"""Sends the load. Nothing is computed here.

Closed loop: so many requests at a time, the next one when one ends. Open loop (`rate`): requests arrive at
random (Poisson) whether or not earlier ones have ended, as they do from real users; times count from the
planned arrival, so that a server that stalls cannot hide its queue.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from triptych_client.bench.asking import Asker, http_client
from triptych_client.bench.company import fill_masks, rivals
from triptych_client.bench.dialects import Question
from triptych_client.bench.plan import FillRecord, Measurement, Plan, RequestRecord, Tally
from triptych_client.bench.tasks import meanwhile, sleep_until, spawning

WATCH_EVERY_S = 0.25
Watch = Callable[[Tally], None]


async def measure(plan: Plan, watch: Watch | None = None) -> Measurement:
    """Carry out `plan`. A request that fails is written down, not raised.

    The warm-up is the exception: a server that cannot answer at all raises its `TriptychError` there.
    `watch` is called a few times a second while the load runs, and at its end.
    """
    load = _Load(plan)
    async with http_client(plan, plan.api_key) as http:
        asker = Asker(plan, http, load.tally)
        await _warm_up(plan, asker)
        async with rivals(plan), fill_masks(plan, http, load.fills), _watched(load.tally, watch):
            began_s = time.process_time()
            await (load.closed_loop(asker) if plan.rate is None else load.open_loop(asker, plan.rate))
            cpu_s = time.process_time() - began_s
    return Measurement(
        plan=plan,
        requests=tuple(sorted(load.records, key=lambda record: record.started_s)),
        fills=tuple(load.fills),
        left_out=asker.left_out,
        generator_cpu_s=cpu_s,
    )


async def _warm_up(plan: Plan, asker: Asker) -> None:
    for question in plan.ask(plan.warmup, salt="warm-up"):
        await asker.ask(question, RequestRecord(started_s=time.perf_counter()))
    asker.tally.tokens = 0


class _Load:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._questions = iter(list(plan.ask(plan.requests)))  # made beforehand, shared by the workers
        self.tally = Tally(requests=plan.requests)
        self.records: list[RequestRecord] = []
        self.fills: list[FillRecord] = []

    async def closed_loop(self, asker: Asker) -> None:
        async with spawning() as spawn:
            for _ in range(self._plan.streams):
                spawn(self._work_off(asker))

    async def open_loop(self, asker: Asker, rate: float) -> None:
        arrivals = random.Random(self._plan.seed)
        due_s = time.perf_counter()
        async with spawning() as spawn:
            while group := list(itertools.islice(self._questions, self._plan.burst)):
                await sleep_until(due_s)
                for question in group:
                    spawn(self._record(asker, question, due_s))
                due_s += arrivals.expovariate(rate / self._plan.burst)

    async def _work_off(self, asker: Asker) -> None:
        for question in self._questions:
            await self._record(asker, question, time.perf_counter())

    async def _record(self, asker: Asker, question: Question, started_s: float) -> None:
        record = RequestRecord(started_s=started_s)
        self.records.append(record)
        await asker.record(question, record)


@asynccontextmanager
async def _watched(tally: Tally, watch: Watch | None) -> AsyncIterator[None]:
    if watch is None:
        yield
        return
    async with meanwhile(_tell_regularly(tally, watch)):
        yield
    watch(tally)


async def _tell_regularly(tally: Tally, watch: Watch) -> None:
    while True:
        watch(tally)
        await asyncio.sleep(WATCH_EVERY_S)

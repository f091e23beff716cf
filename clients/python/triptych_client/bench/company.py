"""What runs beside the load, to see what it does to it: rivals of another API key, and fill-mask requests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx

from triptych_client._errors import TriptychError
from triptych_client._failures import error_of
from triptych_client._transport import in_our_words
from triptych_client.bench.asking import Asker, failure_of, http_client
from triptych_client.bench.plan import FillRecord, Plan, RequestRecord, Tally
from triptych_client.bench.tasks import Spawn, meanwhile, sleep_until, spawning

RIVAL_KEY = "rival"


@asynccontextmanager
async def rivals(plan: Plan) -> AsyncIterator[None]:
    """Keeps `plan.rivals` streams open for as long as the block runs, which begins when one of them is on."""
    if not plan.rivals:
        yield
        return
    others = replace(plan, api_key=RIVAL_KEY, seed=plan.seed + 1)
    tally = Tally(requests=0)
    async with http_client(others, RIVAL_KEY) as http:
        asker = Asker(others, http, tally)
        async with meanwhile(*(_compete(asker, others, number) for number in range(plan.rivals))):
            while not (tally.tokens or tally.ended):
                await asyncio.sleep(0.01)
            yield


async def _compete(asker: Asker, plan: Plan, number: int) -> None:
    """One stream after the other, until cancelled."""
    for turn in itertools.count():
        (question,) = plan.ask(1, salt=f"rival-{number}-{turn}")
        await asker.record(question, RequestRecord(started_s=time.perf_counter()))


@asynccontextmanager
async def fill_masks(plan: Plan, http: httpx.AsyncClient, records: list[FillRecord]) -> AsyncIterator[None]:
    """Sends fill-mask requests for as long as the block runs, then waits for their answers."""
    if plan.fill_mask_every_ms is None:
        yield
        return
    async with spawning() as spawn, meanwhile(_fill_regularly(plan, http, records, spawn)):
        yield


async def _fill_regularly(
    plan: Plan, http: httpx.AsyncClient, records: list[FillRecord], spawn: Spawn
) -> None:
    assert plan.fill_mask_every_ms is not None
    due_s = time.perf_counter()
    while True:
        await sleep_until(due_s)
        spawn(_fill(plan, http, records, due_s))
        due_s += plan.fill_mask_every_ms / 1000


async def _fill(plan: Plan, http: httpx.AsyncClient, records: list[FillRecord], due_s: float) -> None:
    failure = None
    try:
        with in_our_words(plan.url, plan.timeout_s):
            response = await http.post("/fill-mask", json={"inputs": plan.fill_mask_text})
        if not response.is_success:
            raise error_of(response.status_code, response.content, response.headers)
    except TriptychError as error:
        failure = failure_of(error)
    records.append(FillRecord(latency_s=time.perf_counter() - due_s, failure=failure))

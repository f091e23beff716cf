"""Work that is done together ends together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from server.api.connection import every, merge

pytestmark = pytest.mark.anyio


class Patient:
    """Waits for ever, and knows when it was told to stop."""

    stopped = False

    async def wait(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            self.stopped = True

    async def stream(self) -> AsyncGenerator[int]:
        yield 1
        await self.wait()


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("no")


async def failing_stream() -> AsyncGenerator[int]:
    await fail()
    yield 0


async def test_the_first_failure_ends_the_rest() -> None:
    patient = Patient()
    with pytest.raises(ValueError, match="no"):
        await every([patient.wait(), fail()])
    assert patient.stopped


async def test_the_first_failure_ends_every_merged_stream() -> None:
    patient = Patient()
    merged = merge([patient.stream(), failing_stream()])
    assert await anext(merged) == (0, 1)
    with pytest.raises(ValueError, match="no"):
        await anext(merged)
    assert patient.stopped


async def test_merged_streams_end_when_nobody_reads_them_any_more() -> None:
    patients = [Patient(), Patient()]
    merged = merge([patient.stream() for patient in patients])
    assert {await anext(merged), await anext(merged)} == {(0, 1), (1, 1)}
    await merged.aclose()
    assert all(patient.stopped for patient in patients)


async def test_a_single_stream_is_passed_on_with_its_failure() -> None:
    merged = merge([failing_stream()])
    with pytest.raises(ValueError, match="no"):
        await anext(merged)


async def test_a_single_stream_ends_when_nobody_waits_for_it_any_more() -> None:
    patient = Patient()
    merged = merge([patient.stream()])
    assert await anext(merged) == (0, 1)
    waiting = asyncio.ensure_future(anext(merged))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert patient.stopped

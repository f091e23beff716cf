"""The app over a fake engine, and a client that speaks to it in process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient

from server.api.app import create_app
from tests.fakes import FakeEngine

Served = Callable[..., AbstractAsyncContextManager[AsyncClient]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def served() -> Served:
    """A client of an app over the engine that is passed in; other arguments go to `create_app`."""

    @asynccontextmanager
    async def serve(engine: FakeEngine, **options: Any) -> AsyncIterator[AsyncClient]:
        transport = ASGITransport(create_app(engine, **options), raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            yield client

    return serve


@pytest.fixture
async def client(engine: FakeEngine, served: Served) -> AsyncIterator[AsyncClient]:
    async with served(engine) as client:
        yield client

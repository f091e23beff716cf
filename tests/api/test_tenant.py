"""Whose request it is: the same key is the same tenant by whichever header, and no key travels on."""

from __future__ import annotations

import pytest
from httpx import AsyncClient

from server.request import GenerateRequest
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio


async def tenant_of(client: AsyncClient, engine: FakeEngine, headers: dict[str, str], path: str) -> str:
    body = {"/generate": {"inputs": "hi"}, "/v1/completions": {"prompt": "hi"}}[path]
    assert (await client.post(path, json=body, headers=headers)).status_code == 200
    request = engine.asked[-1]
    assert isinstance(request, GenerateRequest)
    return request.terms.tenant


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_a_key_is_one_tenant_however_it_is_sent(
    client: AsyncClient, engine: FakeEngine, path: str
) -> None:
    ways = [
        {"authorization": "Bearer k1"},
        {"authorization": "bearer  k1 "},
        {"x-api-key": "k1"},
        {"authorization": "Bearer k1", "x-api-key": "k2"},
    ]
    tenants = {await tenant_of(client, engine, headers, path) for headers in ways}
    other = await tenant_of(client, engine, {"x-api-key": "k2"}, path)
    assert len(tenants) == 1
    assert other not in tenants


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer "}, {"authorization": "Basic eDp5"}])
async def test_without_a_key_there_is_no_tenant(
    client: AsyncClient, engine: FakeEngine, headers: dict[str, str]
) -> None:
    assert await tenant_of(client, engine, headers, "/generate") == ""


async def test_the_key_itself_is_never_passed_on(client: AsyncClient, engine: FakeEngine) -> None:
    tenant = await tenant_of(client, engine, {"authorization": "Bearer hunter2"}, "/generate")
    assert len(tenant) == 16
    assert int(tenant, 16) >= 0
    assert "hunter2" not in repr(engine.asked)

"""What the server says about itself: health that tells the truth, limits, counters, and its own schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient

from server.api.app import create_app
from server.errors import EngineFailed, NotReady
from tests.api.conftest import Served
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio

SURFACE = Path(__file__).parent / "surface.json"


async def test_health_is_that_of_the_engine_process(client: AsyncClient, engine: FakeEngine) -> None:
    assert (await client.get("/health")).status_code == 200
    engine.alive = False
    response = await client.get("/health")
    assert response.status_code == 503
    assert response.json() == {"error": "unhealthy", "error_type": "healthcheck"}


@pytest.mark.parametrize("why", [NotReady("still loading"), EngineFailed("the device is gone")])
async def test_not_ready_says_why(served: Served, why: Exception) -> None:
    async with served(FakeEngine(refusal=why)) as client:
        response = await client.get("/ready")
    assert response.status_code == 503
    assert response.json() == {"error": str(why), "error_type": "healthcheck"}


async def test_ready(client: AsyncClient) -> None:
    assert (await client.get("/ready")).json() == {"status": "ready"}


async def test_info_has_tgis_fields_and_a_card_for_every_model(served: Served) -> None:
    async with served(FakeEngine(), version="9.9") as client:
        info = (await client.get("/info")).json()
    assert info["model_id"] == "somewhere/gpt"
    assert info["model_pipeline_tag"] == "text-generation"
    assert info["max_total_tokens"] == 64
    assert info["max_stop_sequences"] == 16
    assert info["version"] == "9.9"
    assert [card["name"] for card in info["models"]] == ["gpt", "org/bert"]
    assert info["models"][1]["tasks"] == ["embed", "fill-mask"]
    assert info["models"][1]["embedding_size"] == 2


@pytest.mark.parametrize("path", ["/info", "/v1/models"])
async def test_nothing_is_described_before_it_is_loaded(served: Served, path: str) -> None:
    async with served(FakeEngine(cards=())) as client:
        response = await client.get(path)
    assert response.status_code == 503
    assert "loading" in response.text


async def test_metrics_are_the_engines_counters(client: AsyncClient, engine: FakeEngine) -> None:
    stats = engine.stats.models["gpt"]
    stats.requests["generate", "ok"] = 3
    stats.generated_tokens = 42
    stats.blocks_used = 5
    stats.time_to_first_token.observe(0.03)
    stats.time_to_first_token.observe(1000)
    engine.stats.steps = 7
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    for line in (
        'triptych_requests_total{model="gpt",outcome="ok",task="generate"} 3.0',
        'triptych_generated_tokens_total{model="gpt"} 42.0',
        'triptych_generated_tokens_total{model="org/bert"} 0.0',
        'triptych_kv_blocks_used{model="gpt"} 5.0',
        'triptych_time_to_first_token_seconds_bucket{le="0.02",model="gpt"} 0.0',
        'triptych_time_to_first_token_seconds_bucket{le="0.04",model="gpt"} 1.0',
        'triptych_time_to_first_token_seconds_bucket{le="+Inf",model="gpt"} 2.0',
        'triptych_time_to_first_token_seconds_count{model="gpt"} 2.0',
        'triptych_time_to_first_token_seconds_sum{model="gpt"} 1000.03',
        "triptych_steps_total 7.0",
    ):
        assert line in lines


async def test_the_docs_are_served(client: AsyncClient) -> None:
    assert (await client.get("/docs")).status_code == 200


def test_every_route_has_a_summary_and_an_example() -> None:
    for path, methods in create_app(FakeEngine()).openapi()["paths"].items():
        for operation in methods.values():
            content = operation["responses"]["200"].get("content", {})
            assert operation["summary"], path
            assert any("example" in body for body in content.values()), path


def test_the_surface_is_the_one_on_record() -> None:
    """To change it on purpose, replace `surface.json` with what this test prints."""
    surface = _surface(create_app(FakeEngine()).openapi())
    assert surface == json.loads(SURFACE.read_text()), json.dumps(surface, indent=1)


def _surface(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Every route with the fields of its body: what callers rely on, whatever writes the schema."""
    return {
        f"{method.upper()} {path}": sorted(_fields(operation, schema))
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }


def _fields(operation: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    content = operation.get("requestBody", {}).get("content", {})
    return {name for body in content.values() for name in _names(body["schema"], schema)}


def _names(part: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """The properties of a schema and of those nested in it, with dots between."""
    if "$ref" in part:
        return _names(schema["components"]["schemas"][part["$ref"].rpartition("/")[2]], schema)
    names = set[str]()
    for option in [*part.get("anyOf", []), *part.get("oneOf", []), *filter(None, [part.get("items")])]:
        names |= _names(option, schema)
    for name, inner in part.get("properties", {}).items():
        names |= {name, *(f"{name}.{below}" for below in _names(inner, schema))}
    return names

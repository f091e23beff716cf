"""Which API a server speaks is found out by asking it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.api.app import create_app
from tests.api.live import live_server
from tests.clients.bench_servers import Server, openai_server, tei_server, tgi_server
from tests.clients.scripted_server import ScriptedServer, says, streams, token_event
from tests.fakes import ENCODER, FakeEngine
from triptych_client import ServerUnreachable, UnexpectedAnswer
from triptych_client.bench import Dialect, find_dialect


def find(app: Any, api: str = "auto") -> Dialect:
    with live_server(app) as url:
        return asyncio.run(find_dialect(url, api))


@pytest.mark.parametrize(
    ("app", "api", "model"),
    [
        (openai_server(Server()), "completions", "org/model"),
        (openai_server(Server(), models=("a", "b")), "completions", None),
        (openai_server(Server(), chat_only=True), "chat", "org/model"),
        (tgi_server(Server()), "generate_stream", None),
        (tei_server(Server()), "embed", None),
        (tei_server(Server(), kind="reranker"), "rerank", None),
        (create_app(FakeEngine()), "generate_stream", None),
        (create_app(FakeEngine(cards=(ENCODER,))), "embed", None),
    ],
    ids=["openai", "several models", "chat only", "tgi", "tei", "reranker", "ours", "our encoder"],
)
def test_what_a_server_speaks_is_found_by_asking(app: Any, api: str, model: str | None) -> None:
    dialect = find(app)
    assert (dialect.api, dialect.model) == (api, model)


@pytest.mark.parametrize(
    ("family", "api"), [("openai", "completions"), ("tgi", "generate_stream"), ("tei", "embed")]
)
def test_of_a_family_the_first_route_that_is_there_is_taken(family: str, api: str) -> None:
    assert find(create_app(FakeEngine()), family).api == api


def test_a_server_without_a_list_is_asked_for_each_route(server: ScriptedServer) -> None:
    server.on("/embed", says({"error": "`inputs` is missing"}, status=422))
    assert asyncio.run(find_dialect(server.url)).api == "embed"


def test_a_route_that_answers_whatever_it_is_asked_is_there(server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(token_event(1, "a", whole="a")))
    assert asyncio.run(find_dialect(server.url)).api == "generate_stream"


def test_a_server_that_speaks_nothing_known_is_told(server: ScriptedServer) -> None:
    with pytest.raises(
        UnexpectedAnswer, match=r"none of /generate_stream, .*/rerank; is the address right\?"
    ):
        asyncio.run(find_dialect(server.url))


def test_a_classifier_is_told(server: ScriptedServer) -> None:
    server.on("/info", says({"model_type": {"classifier": {}}}))
    with pytest.raises(UnexpectedAnswer, match="classifies texts"):
        asyncio.run(find_dialect(server.url))


def test_nobody_at_home_is_told(nowhere: str) -> None:
    with pytest.raises(ServerUnreachable):
        asyncio.run(find_dialect(nowhere))

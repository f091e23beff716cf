"""The load generator against servers that are not ours: what it says of them is what they did."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.api.app import create_app
from tests.api.live import live_server
from tests.clients.bench_servers import Server, openai_server, tei_server, tgi_server
from tests.clients.scripted_server import ScriptedServer, says, streams
from tests.fakes import FakeEngine
from triptych_client import InvalidRequest
from triptych_client.bench import (
    APIS,
    Dialect,
    Plan,
    Report,
    Spread,
    measure,
    openai_chat,
    openai_completions,
    openai_embeddings,
    summarize,
    tei_embed,
    tei_rerank,
    tgi,
    tgi_whole,
)

ROOT = Path(__file__).parents[2]


def load(app: Any, dialect: Dialect, **plan: Any) -> Report:
    settings = {"streams": 2, "requests": 4, "tokens": 5, **plan}
    with live_server(app) as url:
        return summarize(asyncio.run(measure(Plan(url=url, dialect=dialect, **settings))))


# What is measured is what the server did.

FIRST_S, GAP_S = 0.15, 0.04


def assert_about(found: Spread | None, true_s: float) -> None:
    """Never less than what the server waited; how much more depends on who else uses the machine."""
    assert found is not None
    assert true_s - 0.005 <= found.p50 <= 1.3 * true_s + 0.03


@pytest.mark.parametrize("dialect", [openai_completions("m"), openai_chat("m"), tgi()], ids=lambda d: d.api)
def test_latencies_of_a_stream_are_those_of_the_server(dialect: Dialect) -> None:
    server = Server(first_s=FIRST_S, gap_s=GAP_S)
    app = tgi_server(server) if dialect.api == "generate_stream" else openai_server(server)
    report = load(app, dialect, streams=4, tokens=6)
    assert (report.ok, report.failed, report.short, report.output_tokens) == (4, 0, 0, 24)
    assert_about(report.first_token, FIRST_S)
    assert_about(report.between_tokens, GAP_S)
    assert_about(report.time_per_token, GAP_S)
    assert_about(report.end_to_end, FIRST_S + 5 * GAP_S)
    assert report.output_tokens_per_s == pytest.approx(24 / report.duration)
    assert report.tokens_counted_by == "usage"
    assert report.all_overlap is True


def test_one_slow_token_is_the_maximum() -> None:
    engine = FakeEngine(pauses_s={2: 0.3})
    report = load(create_app(engine), tgi("gpt"), tokens=3)
    assert report.between_tokens is not None
    assert 0.295 <= report.between_tokens.max < 0.6


def test_a_whole_answer_has_an_end_and_no_first_token() -> None:
    report = load(tgi_server(Server(first_s=FIRST_S)), tgi_whole())
    assert_about(report.end_to_end, FIRST_S)
    assert (report.first_token, report.between_tokens) == (None, None)
    assert (report.output_tokens, report.tokens_counted_by, report.input_tokens) == (20, "usage", 20)


@pytest.mark.parametrize(
    ("dialect", "told"),
    [(tei_embed(), 4 * 12), (openai_embeddings("m"), 4 * 12), (tei_rerank(), None)],
    ids=lambda value: getattr(value, "api", ""),
)
def test_texts_of_an_encoder_are_counted(dialect: Dialect, told: int | None) -> None:
    server = Server(first_s=0.05)
    report = load(tei_server(server), dialect, batch=3)
    assert (report.ok, report.texts, report.input_tokens, report.output_tokens) == (4, 12, told, 0)
    assert report.texts_per_s == pytest.approx(12 / report.duration)
    body = server.asked[-1]
    sent = body.get("inputs") or body.get("input") or body["texts"]
    assert len(set(sent)) == 3
    if dialect.api != "embeddings":
        assert_about(report.end_to_end, 0.05)


def test_an_open_loop_counts_from_the_planned_arrival() -> None:
    """Four arrive at once, the server answers one at a time: the last has waited for all."""
    one_at_a_time = asyncio.Semaphore(1)
    app = tei_server(Server())

    @app.middleware("http")
    async def queue(request: Any, proceed: Any) -> Any:
        async with one_at_a_time:
            await asyncio.sleep(0.1)
            return await proceed(request)

    report = load(app, tei_embed(), rate=1000.0, burst=4)
    assert report.end_to_end is not None
    assert report.end_to_end.max >= 0.395
    assert report.load["burst"] == 4


def test_arrivals_of_an_open_loop_come_at_the_rate() -> None:
    report = load(tei_server(Server()), tei_embed(), rate=100.0, requests=60, seed=3)
    assert 60 / 100 / 1.6 < report.duration < 60 / 100 * 1.6


# Fields that a server does not know.


@pytest.mark.parametrize(
    ("knows", "left_out", "counted_by"),
    [
        ({"ignore_eos", "stream_options"}, [], "usage"),
        ({"min_tokens", "stream_options"}, ["ignore_eos"], "usage"),
        ({"ignore_eos"}, ["stream_options"], "events"),
        (set(), ["ignore_eos", "min_tokens", "stream_options"], "events"),
    ],
    ids=["all", "min_tokens only", "no usage", "none"],
)
@pytest.mark.parametrize("warmup", [0, 1])
def test_a_field_that_is_refused_is_left_out_and_told(
    knows: set[str], left_out: list[str], counted_by: str, warmup: int
) -> None:
    server = Server(knows=frozenset(knows))
    report = load(openai_server(server), openai_completions("m"), warmup=warmup)
    assert (report.ok, report.failed, report.output_tokens) == (4, 0, 20)
    assert report.left_out == left_out
    assert report.tokens_counted_by == counted_by
    last = server.asked[-1]
    assert ("ignore_eos" in last, "stream_options" in last) == (
        "ignore_eos" not in left_out,
        "stream_options" not in left_out,
    )
    assert last.get("min_tokens") == (5 if left_out == ["ignore_eos"] else None)


def test_a_refusal_that_names_no_field_costs_all_of_them() -> None:
    server = Server(knows=frozenset({"stream_options"}), refusal="extra fields are forbidden")
    report = load(openai_server(server), openai_completions("m"))
    assert report.left_out == ["ignore_eos", "min_tokens", "stream_options"]
    assert report.ok == 4
    assert len(server.asked) == 4 + 3  # two refusals, one warm-up


def test_a_refusal_for_another_reason_is_told_in_its_own_words(server: ScriptedServer) -> None:
    server.on("/v1/completions", says({"error": {"message": "`prompt` is too long"}}, status=422))
    with pytest.raises(InvalidRequest, match="`prompt` is too long"):
        asyncio.run(measure(Plan(url=server.url, dialect=openai_completions("m"))))


def test_once_a_server_has_answered_a_refusal_is_not_for_a_fields_sake(server: ScriptedServer) -> None:
    good = streams({"choices": [{"text": "a", "finish_reason": "length"}]}, "[DONE]")
    server.on("/v1/completions", good, says({"error": {"message": "too long"}}, status=422))
    report = summarize(
        asyncio.run(measure(Plan(url=server.url, dialect=openai_completions("m"), requests=3, streams=1)))
    )
    assert (report.failed, report.left_out) == (3, [])
    assert len(server.asked) == 4


# Servers that fail.


def test_a_stream_that_breaks_off_is_a_failure_and_the_others_go_on() -> None:
    report = load(tgi_server(Server(breaks_at=3)), tgi(), warmup=0)
    assert (report.ok, report.failed) == (0, 4)
    assert report.failures["ConnectionLost"].count == 4


def test_a_server_that_never_answers_is_a_timeout() -> None:
    report = load(tei_server(Server(first_s=0.5)), tei_embed(), warmup=0, timeout_s=0.1, requests=2)
    assert report.failures["ServerTimeout"].count == 2
    assert report.duration < 2


@contextmanager
def mortal_server() -> Iterator[str]:
    """A process of its own, which dies in mid-answer by its own hand."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "uvicorn", "--factory", "tests.clients.bench_servers:dying_app"]
        process = subprocess.Popen(
            [*command, "--fd", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        yield url
    finally:
        process.kill()
        process.wait(10)


def test_a_server_that_dies_in_mid_run_is_counted_out() -> None:
    with mortal_server() as url:
        plan = Plan(url=url, dialect=openai_completions("m"), streams=1, requests=6, tokens=40, timeout_s=20)
        report = summarize(asyncio.run(measure(plan)))
    assert (report.ok, report.failed) == (1, 5)  # after the warm-up
    assert list(report.failures) == ["ConnectionLost", "ServerUnreachable"]


@pytest.mark.parametrize("api", ["completions", "chat", "generate_stream", "generate", "embed", "embeddings"])
def test_our_server_can_be_asked_in_every_api_it_has(api: str) -> None:
    model = "gpt" if APIS[api](None).generates else "org/bert"
    report = load(create_app(FakeEngine()), APIS[api](model), tokens=3)
    assert (report.ok, report.failed, report.short, report.left_out) == (4, 0, 0, [])

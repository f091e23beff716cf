"""The load generator against a scripted server. What it says of time is tested on made-up clocks only."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.scripted_server import Answer, ScriptedServer, says, sse, streams, token_event
from triptych_client import ServerUnreachable
from triptych_client.bench import (
    FillRecord,
    Measurement,
    Plan,
    StreamRecord,
    measure,
    openai_completions,
    percentile,
    summarize,
    table,
    tgi,
)
from triptych_client.bench.command import main

FINAL = token_event(2, "b", whole="ab", finish_reason="length", generated_tokens=2)


def record(
    *arrivals_s: float, started_s: float = 0.0, ended_s: float, failure: str | None = None
) -> StreamRecord:
    return StreamRecord(
        started_s=started_s,
        arrivals_s=list(arrivals_s),
        ended_s=ended_s,
        tokens=len(arrivals_s),
        failure=failure,
    )


def measurement(*records: StreamRecord, fills: tuple[FillRecord, ...] = (), **plan: Any) -> Measurement:
    settings = {"streams": len(records), "requests": len(records), "tokens": 2, **plan}
    return Measurement(plan=Plan(url="http://x", dialect=tgi(), **settings), streams=records, fills=fills)


# What the numbers say.


def test_durations_are_those_of_the_streams_that_ended_well() -> None:
    report = summarize(
        measurement(
            record(1.0, 1.5, 4.5, ended_s=5.0),
            record(2.0, started_s=1.0, ended_s=3.0),
            record(9.0, 10.0, ended_s=10.0, failure="ServerFailed: oops"),
            fills=(FillRecord(latency_s=0.25), FillRecord(latency_s=9.0, failure="NotFound: x")),
        )
    )
    assert (report.ok, report.failed, report.short) == (2, 1, 1)
    assert (report.duration, report.output_tokens, report.output_tokens_per_s) == (10.0, 4, 0.4)
    assert report.first_token is not None
    assert (report.first_token.p50, report.first_token.max) == (1.0, 1.0)
    assert report.between_tokens is not None
    assert (report.between_tokens.count, report.between_tokens.p50, report.between_tokens.max) == (
        2,
        0.5,
        3.0,
    )
    assert report.fill_mask is not None
    assert (report.fill_mask_ok, report.fill_mask_failed, report.fill_mask.p95) == (1, 1, 0.25)
    assert report.failures == {"ServerFailed: oops": 1, "NotFound: x": 1}


@pytest.mark.parametrize(
    ("second_began_s", "overlap"), [(1.9, True), (2.1, False)], ids=["side by side", "one after the other"]
)
def test_overlap_means_that_no_stream_waited_for_another_to_end(second_began_s: float, overlap: bool) -> None:
    report = summarize(measurement(record(0.1, ended_s=2.0), record(second_began_s, ended_s=4.0)))
    assert report.all_overlap is overlap
    assert ("every stream had its first token" in table(report)) is overlap


def test_a_stream_without_a_token_overlaps_with_none() -> None:
    assert summarize(measurement(record(0.1, ended_s=2.0), record(ended_s=2.0))).all_overlap is False


def test_overlap_is_asked_of_the_first_wave_of_a_closed_loop_only() -> None:
    late = record(9.0, started_s=8.0, ended_s=10.0)
    pair = (record(0.1, ended_s=2.0), record(0.2, ended_s=2.0))
    assert summarize(measurement(*pair, late, streams=2)).all_overlap is True
    assert summarize(measurement(*pair, rate=4.0)).all_overlap is None
    assert summarize(measurement(late)).all_overlap is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_was_seen_and_is_not_exceeded_by_its_share(values: list[float], share: float) -> None:
    values.sort()
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) * (1 - 1e-12)


# What is sent, and what is written down.


def run(url: str, **plan: Any) -> Measurement:
    return asyncio.run(measure(Plan(url=url, **{"dialect": tgi(), "warmup": 0, "tokens": 2, **plan})))


def test_each_stream_is_asked_for_once_with_a_prompt_of_its_own(server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(token_event(1, "a"), FINAL))
    measured = run(server.url, streams=2, requests=5, prompt_words=6, dialect=tgi("m"))
    assert [stream.tokens for stream in measured.streams] == [2] * 5
    assert all(stream.failure is None and len(stream.arrivals_s) == 2 for stream in measured.streams)
    bodies = [asked.body for asked in server.asked]
    assert bodies[0]["parameters"] == {"max_new_tokens": 2, "ignore_eos": True, "details": True}
    assert {body["model"] for body in bodies} == {"m"}
    assert len({body["inputs"].split()[0] for body in bodies}) == 5
    assert {len(body["inputs"].split()) for body in bodies} == {6}


def test_equal_seeds_send_equal_prompts_and_the_warm_up_others(server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(FINAL))
    for seed in (1, 1, 2):
        run(server.url, streams=1, requests=1, seed=seed, warmup=1)
    prompts = [asked.body["inputs"] for asked in server.asked]
    assert prompts[0:2] == prompts[2:4]
    assert prompts[1] != prompts[5]
    assert prompts[0] != prompts[1]


def test_openai_streams_are_counted_by_the_servers_own_usage(server: ScriptedServer) -> None:
    def chunk(text: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "text": text}], "usage": None}

    usage = {"choices": [], "usage": {"completion_tokens": 5}}
    server.on("/v1/completions", streams(chunk("two tok"), chunk(""), chunk("ens"), usage, "[DONE]"))
    measured = run(server.url, streams=1, requests=1, tokens=5, dialect=openai_completions("m"), prompt="hi")
    assert (measured.streams[0].tokens, len(measured.streams[0].arrivals_s)) == (5, 2)
    body = server.asked[0].body
    assert (body["prompt"], body["max_tokens"], body["model"], body["stream"]) == ("hi", 5, "m", True)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (says({"error": "full"}, status=429), "Overloaded: full"),
        (
            streams(token_event(1, "a")),
            "ConnectionLost: the stream ended without its final event, after 1 tokens",
        ),
        (streams({"error": "oops", "error_type": "generation"}), "ServerFailed: oops"),
        (says({"generated_text": "x"}), "UnexpectedAnswer: expected text/event-stream"),
    ],
)
def test_a_stream_that_fails_is_written_down(server: ScriptedServer, answer: Answer, failure: str) -> None:
    server.on("/generate_stream", answer, streams(FINAL))
    measured = run(server.url, streams=1, requests=2)
    assert str(measured.streams[0].failure).startswith(failure)
    assert measured.streams[1].failure is None


def test_an_unreachable_server_is_told_in_the_warm_up(nowhere: str) -> None:
    with pytest.raises(ServerUnreachable):
        run(nowhere, warmup=1)


def begin_together(count: int) -> Callable[[], Iterator[bytes]]:
    """Streams that end only when `count` of them have begun."""
    begun = threading.Barrier(count)

    def chunks() -> Iterator[bytes]:
        yield sse(token_event(1, "a"))
        begun.wait(5)
        yield sse(FINAL)

    return chunks


@pytest.mark.parametrize("arrive", [{"rate": None}, {"rate": 1000.0}], ids=["closed loop", "open loop"])
def test_streams_are_sent_side_by_side(server: ScriptedServer, arrive: dict[str, Any]) -> None:
    server.on("/generate_stream", Answer(content_type="text/event-stream", chunks=begin_together(4)))
    measured = run(server.url, streams=4, requests=4, **arrive)
    assert [stream.failure for stream in measured.streams] == [None] * 4


def test_a_server_that_takes_turns_is_found_out(server: ScriptedServer) -> None:
    third_has_come = threading.Event()  # so that the client has seen one of the first two end

    def wait_for_the_third() -> Iterator[bytes]:
        assert third_has_come.wait(5)
        yield sse(FINAL)

    def be_the_third() -> Iterator[bytes]:
        third_has_come.set()
        yield sse(FINAL)

    waiting, third = (
        Answer(content_type="text/event-stream", chunks=chunks)
        for chunks in (wait_for_the_third, be_the_third)
    )
    server.on("/generate_stream", streams(FINAL), waiting, third)
    report = summarize(run(server.url, streams=2, requests=3))
    assert report.ok == 3
    assert report.all_overlap is False


def test_rivals_run_beside_the_streams_under_a_key_of_their_own_and_are_not_counted(
    server: ScriptedServer,
) -> None:
    server.on("/generate_stream", Answer(content_type="text/event-stream", chunks=begin_together(2)))
    measured = run(server.url, streams=1, requests=2, rivals=1, api_key="mine")
    assert [stream.failure for stream in measured.streams] == [None] * 2
    keys = [asked.headers["authorization"] for asked in server.asked]
    assert keys.count("Bearer mine") == 2
    assert keys.count("Bearer rival") >= 2


def test_fill_mask_requests_run_beside_the_streams(server: ScriptedServer) -> None:
    filled = threading.Semaphore(0)

    def fill() -> Iterator[bytes]:
        filled.release()
        yield b"[]"

    def stream() -> Iterator[bytes]:
        yield sse(token_event(1, "a"))
        for _ in range(3):
            assert filled.acquire(timeout=5)
        yield sse(FINAL)

    server.on("/generate_stream", Answer(content_type="text/event-stream", chunks=stream))
    server.on("/fill-mask", says({"error": "not yet"}, status=503), Answer(chunks=fill))
    measured = run(server.url, streams=1, requests=1, fill_mask_every_ms=1.0, fill_mask_text="a [MASK]")
    report = summarize(measured)
    assert report.ok == 1
    assert report.fill_mask_ok >= 3
    assert report.failures == {"NotReady: not yet": 1}
    fills = [asked.body for asked in server.asked if asked.path == "/fill-mask"]
    assert fills[0] == {"inputs": "a [MASK]"}
    assert len(fills) == len(measured.fills)


# The command line.


def test_the_command_prints_a_table(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/generate_stream", streams(token_event(1, "a"), FINAL))
    server.on("/fill-mask", says([]))
    flags = ["--url", server.url, "--streams", "2", "--tokens", "2", "--fill-mask-every-ms", "5"]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "2 ok, 0 failed, 0 shorter than asked" in printed
    rows = [
        line
        for line in printed.splitlines()
        if line.startswith(("first token", "between tokens", "fill-mask "))
    ]
    assert len(rows) == 4  # fill-mask has a line of counts too


def test_the_command_prints_json(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/generate_stream", streams(token_event(1, "a"), FINAL))
    assert main(["--url", server.url, "--streams", "2", "--requests", "3", "--tokens", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["short"], report["output_tokens"]) == (3, 3, 6)
    assert report["first_token"]["count"] == 3
    assert report["fill_mask"] is None


def test_a_failed_request_fails_the_command(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = says({"error": "full"}, status=429)
    server.on("/generate_stream", *itertools.repeat(streams(FINAL), 2), busy)
    assert main(["--url", server.url, "--streams", "1", "--requests", "3"]) == 1
    printed = capsys.readouterr().out
    assert "1 ok, 2 failed" in printed
    assert "2 x Overloaded: full" in printed


def test_a_server_that_is_not_there_is_one_line(nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", nowhere], program="triptych bench") == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"triptych bench: no server answers at {nowhere}")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--streams", "0"], "argument --streams: 0 is less than 1"),
        (["--rate", "-1"], "argument --rate: -1 is not a positive number"),
        (["--rate", "nan"], "argument --rate: nan is not a positive number"),
        (["--tokens", "many"], "argument --tokens"),
        (["--warmup", "-1"], "argument --warmup: -1 is less than 0"),
        (["--dialect", "smtp"], "argument --dialect"),
        (["--url", "localhost"], "the address must start with http://"),
        (["--streems", "1"], "unrecognized arguments: --streems"),
    ],
)
def test_a_mistaken_flag_is_named(
    flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    assert complaint in capsys.readouterr().err

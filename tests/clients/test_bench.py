"""What the load generator sends, and what it writes down, against a scripted server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scripted_server import Answer, ScriptedServer, says, sse, streams, token_event
from triptych_client import ServerUnreachable
from triptych_client.bench import (
    Dialect,
    Measurement,
    Plan,
    Prompt,
    Tally,
    measure,
    openai_chat,
    openai_completions,
    read_prompts,
    summarize,
    tei_embed,
    tgi,
    tgi_whole,
)

FINAL = token_event(2, "b", whole="ab", finish_reason="length", generated_tokens=2)


def run(url: str, **plan: Any) -> Measurement:
    return asyncio.run(measure(Plan(url=url, **{"dialect": tgi(), "warmup": 0, "tokens": 2, **plan})))


def test_each_stream_is_asked_for_once_with_a_prompt_of_its_own(server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(token_event(1, "a"), FINAL))
    measured = run(server.url, streams=2, requests=5, prompt_words=6, dialect=tgi("m"))
    assert [stream.tokens for stream in measured.requests] == [2] * 5
    assert all(stream.failure is None and len(stream.arrivals_s) == 2 for stream in measured.requests)
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
    (asked,) = measured.requests
    assert (asked.tokens, asked.counted, len(asked.arrivals_s)) == (5, True, 2)
    body = server.asked[0].body
    assert (body["prompt"], body["max_tokens"], body["model"], body["stream"]) == ("hi", 5, "m", True)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (says({"error": "full"}, status=429), "Overloaded (429): full"),
        (streams(token_event(1, "a")), "ConnectionLost: the stream ended without its final event"),
        (streams(token_event(1, "a"), whole=False), "ConnectionLost: the connection to http://"),
        (streams({"error": "oops", "error_type": "generation"}), "ServerFailed: oops"),
        (streams({"no": "token"}), "UnexpectedAnswer: expected an object with `token`"),
        (says({"generated_text": "x"}), "UnexpectedAnswer: expected text/event-stream"),
    ],
)
def test_a_stream_that_fails_is_written_down(server: ScriptedServer, answer: Answer, failure: str) -> None:
    server.on("/generate_stream", answer, streams(FINAL))
    first, second = run(server.url, streams=1, requests=2).requests
    assert first.failure is not None
    assert f"{first.failure.kind}: {first.failure.message}".startswith(failure)
    assert second.failure is None


@pytest.mark.parametrize(
    ("dialect", "answer", "failure"),
    [
        (tei_embed(), [[1.0]], "2 texts were sent, 1 answered"),
        (tei_embed(), {"error": "none"}, "expected a list of vectors"),
        (tgi_whole(), {"text": "a"}, "expected an object with `generated_text`"),
        (tgi_whole(), "no JSON", "expected JSON"),
    ],
)
def test_a_whole_answer_that_is_none_is_written_down(
    server: ScriptedServer, dialect: Dialect, answer: object, failure: str
) -> None:
    server.on(dialect.path, says(answer))
    batch = 1 if dialect.generates else 2
    (asked,) = run(server.url, streams=1, requests=1, dialect=dialect, batch=batch).requests
    assert asked.failure is not None
    assert asked.failure.kind == "UnexpectedAnswer"
    assert asked.failure.message.startswith(failure)


def test_a_chat_is_one_message_and_its_reasoning_counts(server: ScriptedServer) -> None:
    def chunk(**delta: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    thought, said = chunk(reasoning_content="hm"), chunk(content="\n")
    server.on("/v1/chat/completions", streams(chunk(role="assistant", content=""), thought, said, end))
    (asked,) = run(server.url, streams=1, requests=1, prompt="hi", dialect=openai_chat()).requests
    assert (asked.tokens, asked.counted, asked.failure) == (2, False, None)
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "hi"}]


def test_a_text_that_looks_like_a_field_is_a_text(server: ScriptedServer) -> None:
    """The quick reading must not see an end, or an error, in what the model writes."""
    texts = ['"error": "x"', '"generated_text": "x"', '"token": {', '"usage": {', "data: [DONE]"]
    answer = [token_event(number, text) for number, text in enumerate(texts)]
    server.on("/generate_stream", streams(*answer, FINAL))
    chunks = [{"choices": [{"text": text}]} for text in texts]
    server.on("/v1/completions", streams(*chunks, "[DONE]"))
    (asked,) = run(server.url, streams=1, requests=1).requests
    assert (asked.failure, len(asked.arrivals_s)) == (None, 6)
    (asked,) = run(server.url, streams=1, requests=1, dialect=openai_completions()).requests
    assert (asked.failure, asked.tokens) == (None, 5)


def test_events_are_counted_however_they_are_cut(server: ScriptedServer) -> None:
    whole = b"".join(sse(event) for event in [*(token_event(n, "é") for n in range(5)), FINAL])

    def crumbs() -> Iterator[bytes]:
        yield from (whole[at : at + 7] for at in range(0, len(whole), 7))

    server.on("/generate_stream", Answer(content_type="text/event-stream", chunks=crumbs))
    (asked,) = run(server.url, streams=1, requests=1).requests
    assert (asked.failure, len(asked.arrivals_s)) == (None, 6)


def test_a_refusal_after_the_first_token_is_not_for_a_fields_sake(server: ScriptedServer) -> None:
    refusal = {"error": "no `ignore_eos` here", "error_type": "validation"}
    server.on("/generate_stream", streams(token_event(1, "a"), refusal))
    (asked,) = run(server.url, streams=1, requests=1).requests
    assert asked.failure is not None
    assert (asked.failure.kind, len(asked.arrivals_s), len(server.asked)) == ("InvalidRequest", 1, 1)


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
    assert [stream.failure for stream in measured.requests] == [None] * 4


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
    assert [stream.failure for stream in measured.requests] == [None] * 2
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
    assert list(report.failures) == ["NotReady (503)"]
    assert report.failures["NotReady (503)"].count == 1
    fills = [asked.body for asked in server.asked if asked.path == "/fill-mask"]
    assert fills[0] == {"inputs": "a [MASK]"}
    assert len(fills) == len(measured.fills)


def test_the_tally_tells_how_far_the_load_has_come(server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(token_event(1, "a"), FINAL), says({"error": "x"}, status=500))
    told: list[tuple[int, int, int, int]] = []

    def watch(tally: Tally) -> None:
        told.append((tally.requests, tally.ended, tally.failed, tally.tokens))

    asyncio.run(measure(Plan(url=server.url, dialect=tgi(), streams=1, requests=2, warmup=0), watch))
    assert told[0] == (2, 0, 0, 0)
    assert told[-1] == (2, 2, 1, 2)


# What a file asks.


def test_prompts_of_a_file_are_asked_in_turn_each_with_its_length(
    server: ScriptedServer, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"eins"\n\n{"prompt": "zwei", "tokens": 7}\n')
    prompts = read_prompts(file)
    assert prompts == [Prompt(text="eins"), Prompt(text="zwei", tokens=7)]
    server.on("/generate_stream", streams(token_event(1, "a"), FINAL))
    measured = run(server.url, streams=1, requests=3, prompts=tuple(prompts))
    asked = [(one.body["inputs"], one.body["parameters"]["max_new_tokens"]) for one in server.asked]
    assert asked == [("eins", 2), ("zwei", 7), ("eins", 2)]
    assert summarize(measured).short == 1


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("", "holds no prompt"),
        ('"a"\nb', "line 2: no JSON"),
        ("3", "line 1: expected a text, or an object with a text as `prompt`"),
        ('""', "line 1: expected a text"),
        ('{"text": "a"}', "line 1: expected a text"),
        ('{"prompt": "a", "token": 1}', "line 1: unknown field `token`; known: prompt, tokens"),
        ('{"prompt": "a", "tokens": 0}', "`tokens` must be a whole number of at least 1; found 0"),
        ('{"prompt": "a", "tokens": true}', "found true"),
    ],
)
def test_a_mistaken_line_is_named(tmp_path: Path, lines: str, complaint: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(lines)
    with pytest.raises(ValueError, match=complaint):
        read_prompts(file)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"batch": 2}, "/generate_stream takes one text a request: no batch of 2"),
        ({"burst": 2}, "they need a rate"),
        ({"prompt": "a", "prompts": (Prompt(text="b"),)}, "not both"),
    ],
)
def test_what_cannot_be_done_together_is_told(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Plan(url="http://x", dialect=tgi(), **fields)

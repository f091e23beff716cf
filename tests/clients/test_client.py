"""Both clients against a real HTTP server: every test runs with `Client` and with `AsyncClient`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

import triptych_client
from tests.clients.scripted_server import Answer, ScriptedServer, says, sse, streams, token_event
from triptych_client import (
    Alternative,
    AsyncClient,
    Client,
    ConnectionLost,
    Generation,
    InvalidRequest,
    MaskCandidate,
    ModelCard,
    NotFound,
    NotReady,
    Overloaded,
    Piece,
    RequestFailed,
    ServerFailed,
    ServerTimeout,
    ServerUnreachable,
    StreamTruncated,
    Token,
    TriptychError,
    Unauthorized,
    UnexpectedAnswer,
    Verdict,
)

ONCE = token_event(1, "Once")
UPON = token_event(
    2, " upon", whole="Once upon", finish_reason="length", generated_tokens=2, input_length=3, seed=7
)


class Caller(Protocol):
    """Either client, used the same way."""

    def call(self, method: str, *args: Any, **options: Any) -> Any: ...
    def pieces(self, method: str, *args: Any, **options: Any) -> Iterator[Piece]: ...
    def close(self) -> None: ...


class BlockingCaller:
    def __init__(self, url: str, **settings: Any) -> None:
        self._client = Client(url, **settings)

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        return getattr(self._client, method)(*args, **options)

    def pieces(self, method: str, *args: Any, **options: Any) -> Iterator[Piece]:
        with getattr(self._client, method)(*args, **options) as stream:
            yield from stream

    def close(self) -> None:
        self._client.close()


class AsyncCaller:
    def __init__(self, url: str, **settings: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **settings)

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        return self._runner.run(getattr(self._client, method)(*args, **options))

    def pieces(self, method: str, *args: Any, **options: Any) -> Iterator[Piece]:
        stream = getattr(self._client, method)(*args, **options)
        try:
            while (piece := self._runner.run(anext(stream, None))) is not None:
                yield piece
        finally:
            self._runner.run(stream.aclose())

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


Connect = Callable[..., Caller]


@pytest.fixture(params=[BlockingCaller, AsyncCaller], ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    callers: list[Caller] = []

    def connect(url: str, **settings: Any) -> Caller:
        callers.append(request.param(url, **settings))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.close()


# What is asked, and what comes back.


def test_generate_sends_tgis_body_and_returns_the_text(connect: Connect, server: ScriptedServer) -> None:
    tokens = [{"id": 5, "text": " time", "logprob": -0.25, "special": False}]
    details = {"finish_reason": "length", "generated_tokens": 1, "seed": 7, "prefill": [], "tokens": tokens}
    answer = {"generated_text": " time", "details": details}
    server.on("/generate", says(answer, headers={"x-prompt-tokens": "4"}))
    result = connect(server.url).call(
        "generate", "Once upon a", max_new_tokens=1, top_p=0.9, stop="\n", model="m"
    )
    parameters = {"max_new_tokens": 1, "top_p": 0.9, "stop": ["\n"], "do_sample": True, "details": True}
    assert server.asked[0].body == {"inputs": "Once upon a", "parameters": parameters, "model": "m"}
    assert result == Generation(
        text=" time",
        finish_reason="length",
        prompt_tokens=4,
        generated_tokens=1,
        seed=7,
        tokens=(Token(id=5, text=" time", logprob=-0.25, special=False),),
    )


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 0.0, "top_k": 50}])
def test_greedy_is_asked_for_without_a_temperature(
    connect: Connect, server: ScriptedServer, options: dict[str, Any]
) -> None:
    server.on("/generate", says({"generated_text": "x"}))
    connect(server.url).call("generate", "a", **options)
    assert server.asked[0].body["parameters"] == {"details": True}


def test_a_stream_yields_the_tokens_and_then_the_whole(connect: Connect, server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(ONCE, UPON))
    pieces = list(connect(server.url).pieces("stream", "a", seed=7))
    assert [piece.text for piece in pieces] == ["Once", " upon"]
    assert pieces[0].result is None
    result = pieces[1].result
    assert result is not None
    assert (result.text, result.finish_reason, result.prompt_tokens) == ("Once upon", "length", 3)
    assert (result.generated_tokens, result.seed) == (2, 7)
    assert [token.id for token in result.tokens] == [1, 2]


def test_special_tokens_are_no_part_of_the_text(connect: Connect, server: ScriptedServer) -> None:
    server.on(
        "/generate_stream", streams(ONCE, token_event(2, "</s>", whole="Once", finish_reason="eos_token"))
    )
    pieces = list(connect(server.url).pieces("stream", "a"))
    assert "".join(piece.text for piece in pieces) == "Once"
    assert pieces[-1].token == Token(id=2, text="</s>", logprob=-0.5, special=True)


def test_chat_sends_openais_body_and_returns_the_answer(connect: Connect, server: ScriptedServer) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    server.on("/v1/chat/completions", says({"choices": [choice], "usage": usage}, headers={"x-seed": "7"}))
    result = connect(server.url).call("chat", "The capital?", max_new_tokens=5, temperature=0)
    messages = [{"role": "user", "content": "The capital?"}]
    assert server.asked[0].body == {"messages": messages, "max_tokens": 5, "temperature": 0}
    assert result == Generation(
        text="Paris.", finish_reason="stop", prompt_tokens=9, generated_tokens=2, seed=7
    )


def test_a_chat_streams_deltas_and_ends_with_the_whole(connect: Connect, server: ScriptedServer) -> None:
    events = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "Par"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "is"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
        "[DONE]",
    ]
    server.on("/v1/chat/completions", streams(*events, headers={"x-seed": "7"}))
    pieces = list(connect(server.url).pieces("stream_chat", [{"role": "user", "content": "?"}]))
    body = server.asked[0].body
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert [piece.text for piece in pieces] == ["Par", "is", ""]
    assert pieces[-1].result == Generation(
        text="Paris", finish_reason="stop", prompt_tokens=9, generated_tokens=2, seed=7
    )


def test_a_beam_search_is_asked_for_in_every_dialect(connect: Connect, server: ScriptedServer) -> None:
    choice = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    server.on("/generate", says({"generated_text": "x"}))
    server.on("/generate_stream", streams(UPON))
    server.on("/v1/chat/completions", says({"choices": [choice]}))
    search = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"}
    caller = connect(server.url)
    caller.call("generate", "a", **search)
    list(caller.pieces("stream", "a", **search))
    caller.call("chat", "a", **search)
    generated, streamed, chatted = (asked.body for asked in server.asked)
    assert generated["parameters"] == streamed["parameters"] == {**search, "details": True}
    assert {name: chatted[name] for name in search} == search


def test_what_contradicts_beams_is_sent_alone_for_the_server_to_name(
    connect: Connect, server: ScriptedServer
) -> None:
    server.on("/generate", says({"generated_text": "x"}))
    connect(server.url).call("generate", "a", num_beams=4, top_k=3)
    assert server.asked[0].body["parameters"] == {"num_beams": 4, "top_k": 3, "details": True}


# Scores, several texts, receipts.

TIME = {"id": 5, "text": " time", "logprob": -0.25, "special": False}
TIMES = {"id": 6, "text": " times", "logprob": -1.5, "special": False}
SCORED = Token(
    id=5,
    text=" time",
    logprob=-0.25,
    special=False,
    alternatives=(
        Alternative(text=" time", logprob=-0.25, id=5),
        Alternative(text=" times", logprob=-1.5, id=6),
    ),
)
SPOKEN = {
    "token": "Par",
    "logprob": -0.5,
    "bytes": [80, 97, 114],
    "top_logprobs": [{"token": "Lon", "logprob": -0.1, "bytes": [76, 111, 110]}],
}
HEARD = Token(
    id=None, text="Par", logprob=-0.5, special=False, alternatives=(Alternative(text="Lon", logprob=-0.1),)
)


def test_generate_asks_for_several_scored_texts_in_tgis_words(
    connect: Connect, server: ScriptedServer
) -> None:
    other = {
        "generated_text": " a",
        "finish_reason": "length",
        "generated_tokens": 1,
        "seed": 7,
        "tokens": [],
    }
    details = {
        "finish_reason": "timeout",
        "generated_tokens": 1,
        "seed": 7,
        "tokens": [TIME],
        "top_tokens": [[TIME, TIMES]],
        "best_of_sequences": [other],
    }
    server.on("/generate", says({"generated_text": " time", "details": details, "receipt": {"hash": "0"}}))
    result = connect(server.url).call(
        "generate",
        "Once upon a",
        n=2,
        temperature=0.5,
        top_logprobs=2,
        priority=1,
        timeout_s=0.5,
        receipt=True,
    )
    assert server.asked[0].body["parameters"] == {
        "best_of": 2,
        "temperature": 0.5,
        "do_sample": True,
        "top_n_tokens": 2,
        "priority": 1,
        "timeout": 0.5,
        "receipt": True,
        "details": True,
    }
    assert result.tokens == (SCORED,)
    assert (result.finish_reason, result.receipt) == ("timeout", {"hash": "0"})
    assert [(text.text, text.finish_reason) for text in result.others] == [(" a", "length")]


def test_a_stream_tells_the_alternatives_of_each_token(connect: Connect, server: ScriptedServer) -> None:
    event = token_event(5, " time", whole=" time", finish_reason="length")
    event |= {"token": TIME, "top_tokens": [TIME, TIMES], "receipt": {"hash": "0"}}
    server.on("/generate_stream", streams(event))
    (piece,) = connect(server.url).pieces("stream", "a", top_logprobs=2)
    assert piece.token == SCORED
    assert piece.result is not None
    assert (piece.result.tokens, piece.result.receipt) == ((SCORED,), {"hash": "0"})


def test_chat_asks_for_several_scored_texts_in_openais_words(
    connect: Connect, server: ScriptedServer
) -> None:
    choices = [
        {
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": {"content": [SPOKEN]},
            "receipt": {"hash": text},
        }
        for text in ("Par", "Rom")
    ]
    server.on("/v1/chat/completions", says({"choices": choices}))
    result = connect(server.url).call("chat", "?", n=2, top_logprobs=1, timeout_s=0.5, receipt=True)
    body = server.asked[0].body
    del body["messages"]
    assert body == {"n": 2, "logprobs": True, "top_logprobs": 1, "timeout": 0.5, "receipt": True}
    assert (result.text, result.tokens, result.receipt) == ("Par", (HEARD,), {"hash": "Par"})
    assert [(text.text, text.receipt) for text in result.others] == [("Rom", {"hash": "Rom"})]


def test_a_streamed_chat_ends_with_its_tokens_and_its_receipt(
    connect: Connect, server: ScriptedServer
) -> None:
    piece = {"delta": {"content": "Par"}, "finish_reason": None, "logprobs": {"content": [SPOKEN]}}
    end = {"delta": {}, "finish_reason": "stop", "logprobs": None, "receipt": {"hash": "0"}}
    server.on("/v1/chat/completions", streams({"choices": [piece]}, {"choices": [end]}, "[DONE]"))
    *_, last = connect(server.url).pieces("stream_chat", "?", top_logprobs=1)
    assert last.result is not None
    assert (last.result.tokens, last.result.receipt) == ((HEARD,), {"hash": "0"})


@pytest.mark.parametrize("method", ["stream", "stream_chat"])
def test_a_stream_is_one_text(connect: Connect, server: ScriptedServer, method: str) -> None:
    with pytest.raises(ValueError, match="`n` does not go with a stream"):
        list(connect(server.url).pieces(method, "a", n=2))
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ({"verdict": "identical", "tokens": 20}, Verdict(verdict="identical")),
        (
            {"verdict": "different", "index": 3, "expected": 5, "got": None},
            Verdict(verdict="different", index=3, expected=5),
        ),
    ],
)
def test_a_receipt_is_verified(
    connect: Connect, server: ScriptedServer, answer: dict[str, Any], verdict: Verdict
) -> None:
    server.on("/v1/verify", says(answer))
    assert connect(server.url).call("verify", {"hash": "0"}, model="m") == verdict
    assert server.asked[0].body == {"receipt": {"hash": "0"}, "model": "m", "force": False}


# What encoder-decoders do.


@pytest.mark.parametrize(
    ("method", "name"), [("summarize", "summary_text"), ("translate", "translation_text")]
)
def test_a_task_answers_with_a_text_for_each(
    connect: Connect, server: ScriptedServer, method: str, name: str
) -> None:
    server.on(f"/{method}", says([{name: "one"}]), says([{name: "one"}, {name: "two"}]))
    caller = connect(server.url)
    assert caller.call(method, "a text") == ["one"]
    assert caller.call(method, ("a text", "another")) == ["one", "two"]
    assert server.asked[0].body == {"inputs": ["a text"], "parameters": {"generate_parameters": {}}}
    assert server.asked[1].body["inputs"] == ["a text", "another"]


def test_how_a_task_writes_lies_apart_from_what_it_is_and_how_it_stands(
    connect: Connect, server: ScriptedServer
) -> None:
    server.on("/translate", says([{"translation_text": "x"}]))
    connect(server.url).call(
        "translate",
        "a",
        src_lang="en_XX",
        tgt_lang="de_DE",
        truncate=True,
        clean_up_spaces=True,
        max_new_tokens=9,
        num_beams=4,
        temperature=0,
        stop=".",
        priority=1,
        timeout_s=0.5,
        model="m",
        extra={"min_length": 3},
    )
    written = {"max_new_tokens": 9, "num_beams": 4, "temperature": 0, "stop": ["."], "min_length": 3}
    assert server.asked[0].body == {
        "inputs": ["a"],
        "model": "m",
        "parameters": {
            "src_lang": "en_XX",
            "tgt_lang": "de_DE",
            "truncation": "only_first",
            "clean_up_tokenization_spaces": True,
            "priority": 1,
            "timeout": 0.5,
            "generate_parameters": written,
        },
    }


# What encoders do, and what is loaded.

CAPITAL = {"score": 0.8, "token": 5, "token_str": "capital", "sequence": "the capital"}
HEART = {"score": 0.1, "token": 6, "token_str": "heart", "sequence": "the heart"}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([CAPITAL, HEART], [["capital", "heart"]]),
        ([[CAPITAL], [HEART]], [["capital"], ["heart"]]),
    ],
    ids=["one mask", "two masks"],
)
def test_fill_mask_returns_a_list_for_each_mask(
    connect: Connect, server: ScriptedServer, answer: Any, found: list[list[str]]
) -> None:
    server.on("/fill-mask", says(answer))
    masks = connect(server.url).call("fill_mask", "the [MASK]", top_k=2, targets=("capital", "heart"))
    parameters = {"top_k": 2, "targets": ["capital", "heart"]}
    assert server.asked[0].body == {"inputs": "the [MASK]", "parameters": parameters}
    assert [[candidate.token_str for candidate in mask] for mask in masks] == found
    assert masks[0][0] == MaskCandidate(score=0.8, token=5, token_str="capital", sequence="the capital")


def test_embed_returns_a_vector_for_each_text(connect: Connect, server: ScriptedServer) -> None:
    server.on("/embed", says([[0.5, 1.0]]), says([[0.0], [1.0]]))
    caller = connect(server.url)
    assert caller.call("embed", "Paris") == [[0.5, 1.0]]
    assert caller.call("embed", ["a", "b"], normalize=False, dimensions=1) == [[0.0], [1.0]]
    assert server.asked[0].body == {"inputs": ["Paris"], "normalize": True, "truncate": False}
    body = {"inputs": ["a", "b"], "normalize": False, "truncate": False, "dimensions": 1}
    assert server.asked[1].body == body


def test_models_lists_what_is_loaded_and_whose_adapters(connect: Connect, server: ScriptedServer) -> None:
    card = {"id": "SmolLM2", "object": "model", "created": 1, "owned_by": "triptych"}
    adapter = card | {"id": "sql", "parent": "SmolLM2"}
    server.on("/v1/models", says({"object": "list", "data": [card, adapter]}))
    models = connect(server.url).call("models")
    assert models == [
        ModelCard(name="SmolLM2", created=1, owned_by="triptych"),
        ModelCard(name="sql", created=1, owned_by="triptych", parent="SmolLM2"),
    ]


@pytest.mark.parametrize(("method", "path"), [("health", "/health"), ("ready", "/ready")])
def test_a_probe_is_a_plain_yes_or_no(
    connect: Connect, server: ScriptedServer, method: str, path: str
) -> None:
    server.on(path, says({"status": "ok"}), says({"error": "loading"}, status=503))
    caller = connect(server.url)
    assert caller.call(method) is True
    assert caller.call(method) is False


def test_a_server_that_is_not_there_is_not_healthy(connect: Connect, nowhere: str) -> None:
    assert connect(nowhere).call("health") is False
    assert connect(nowhere).call("ready") is False


def test_a_probe_of_another_kind_of_server_says_so(connect: Connect, server: ScriptedServer) -> None:
    with pytest.raises(NotFound, match="no route /ready"):
        connect(server.url).call("ready")


def test_the_key_is_sent_as_a_bearer_token_and_the_client_names_itself(
    connect: Connect, server: ScriptedServer
) -> None:
    server.on("/health", says({}))
    connect(server.url, api_key="secret").call("health")
    headers = server.asked[0].headers
    assert headers["authorization"] == "Bearer secret"
    assert headers["user-agent"] == f"triptych-client/{triptych_client.__version__}"


def test_an_unknown_option_is_named_before_anything_is_sent(connect: Connect, server: ScriptedServer) -> None:
    with pytest.raises(TypeError, match="unknown option: temprature; known: max_new_tokens, temperature"):
        connect(server.url).call("generate", "a", temprature=1)
    assert server.asked == []


@pytest.mark.parametrize("method", ["summarize", "translate"])
def test_options_that_only_generate_has_are_named(
    connect: Connect, server: ScriptedServer, method: str
) -> None:
    with pytest.raises(TypeError, match=r"unknown option: n, receipt; known: .*num_beams"):
        connect(server.url).call(method, "a", n=2, receipt=True)
    assert server.asked == []


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://host:port"])
def test_an_address_that_is_none_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        connect(url)


# What goes wrong.


@pytest.mark.parametrize(
    ("status", "leaf"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (405, InvalidRequest),
        (413, InvalidRequest),
        (415, InvalidRequest),
        (418, ServerFailed),
        (422, InvalidRequest),
        (424, ServerFailed),
        (429, Overloaded),
        (500, ServerFailed),
        (503, NotReady),
    ],
)
def test_each_status_is_an_error_of_its_own(
    connect: Connect, server: ScriptedServer, status: int, leaf: type[RequestFailed]
) -> None:
    server.on("/generate", says({"error": "in words", "error_type": "kind"}, status=status))
    with pytest.raises(leaf, match=r"^in words$") as caught:
        connect(server.url).call("generate", "a")
    assert type(caught.value) is leaf
    assert (caught.value.status, caught.value.kind) == (status, "kind")


def test_openais_errors_name_the_parameter(connect: Connect, server: ScriptedServer) -> None:
    error = {
        "message": "`n` is not supported yet",
        "type": "invalid_request_error",
        "param": "n",
        "code": 400,
    }
    server.on("/v1/chat/completions", says({"error": error}, status=400))
    with pytest.raises(InvalidRequest, match="`n` is not supported yet") as caught:
        connect(server.url).call("chat", "a")
    assert (caught.value.kind, caught.value.parameter) == ("invalid_request_error", "n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (says("Bad Gateway", status=502), "^Bad Gateway$"),
        (says("", status=500), "^HTTP status 500, without a word$"),
        (says({"detail": "Not here"}, status=404), "Not here"),
        (says(["a", "b"], status=500), "a.*b"),
        (says({"error": ["odd"], "error_type": {"odd": 1}}, status=500), "odd"),
    ],
)
def test_an_error_of_any_shape_is_told(
    connect: Connect, server: ScriptedServer, answer: Answer, message: str
) -> None:
    server.on("/generate", answer)
    with pytest.raises(RequestFailed, match=message):
        connect(server.url).call("generate", "a")


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [({"retry-after": "3"}, 3.0), ({"retry-after": "3", "retry-after-ms": "250"}, 0.25), ({}, None)],
)
def test_an_overloaded_server_says_when_to_come_back(
    connect: Connect, server: ScriptedServer, headers: dict[str, str], wait_s: float | None
) -> None:
    busy = {"error": "Model is overloaded", "error_type": "overloaded"}
    server.on("/generate_stream", says(busy, status=429, headers=headers))
    with pytest.raises(Overloaded) as caught:
        list(connect(server.url).pieces("stream", "a"))
    assert caught.value.retry_after_s == wait_s
    assert len(server.asked) == 1  # retries are off unless asked for


def test_retries_wait_as_told_and_are_bounded(connect: Connect, server: ScriptedServer) -> None:
    busy = says({"error": "full", "error_type": "overloaded"}, status=429, headers={"retry-after-ms": "1"})
    server.on("/generate", busy, busy, says({"generated_text": "x"}), busy)
    caller = connect(server.url, retries=2)
    assert caller.call("generate", "a").text == "x"
    assert len(server.asked) == 3
    with pytest.raises(Overloaded):
        caller.call("generate", "a")
    assert len(server.asked) == 6


def test_a_wait_of_minutes_is_not_waited_for(connect: Connect, server: ScriptedServer) -> None:
    server.on("/generate", says({"error": "full"}, status=429, headers={"retry-after": "3600"}))
    with pytest.raises(Overloaded):
        connect(server.url, retries=5).call("generate", "a")
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_unreachable(connect: Connect, nowhere: str) -> None:
    with pytest.raises(
        ServerUnreachable, match=f"no server answers at {nowhere} .*`triptych serve` starts one"
    ):
        connect(nowhere).call("generate", "a")
    with pytest.raises(ServerUnreachable):
        list(connect(nowhere).pieces("stream", "a"))


def test_a_silent_server_times_out(connect: Connect, server: ScriptedServer) -> None:
    def silence() -> Iterator[bytes]:
        yield sse(ONCE)
        server.hung_up.wait(5)

    server.on("/generate_stream", Answer(content_type="text/event-stream", chunks=silence))
    with pytest.raises(ServerTimeout, match=r"longer than the timeout of 0\.05 seconds"):
        list(connect(server.url, timeout=0.05).pieces("stream", "a"))
    server.hung_up.set()


@pytest.mark.parametrize("whole", [True, False], ids=["closed in order", "cut off"])
@pytest.mark.parametrize("method", ["stream", "stream_chat"])
def test_a_stream_without_its_final_event_is_never_taken_for_whole(
    connect: Connect, server: ScriptedServer, method: str, whole: bool
) -> None:
    delta = {"choices": [{"index": 0, "delta": {"content": "Once"}, "finish_reason": "stop"}]}
    server.on("/generate_stream", streams(ONCE, whole=whole))
    server.on("/v1/chat/completions", streams(delta, whole=whole))
    pieces = connect(server.url).pieces(method, "a")
    assert next(pieces).text == "Once"
    with pytest.raises(StreamTruncated) as caught:
        next(pieces)
    assert caught.value.text == "Once"


def test_what_breaks_after_the_final_event_does_no_harm(connect: Connect, server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(ONCE, UPON, whole=False))
    assert len(list(connect(server.url).pieces("stream", "a"))) == 2


def test_an_answer_that_is_cut_off_is_lost(connect: Connect, server: ScriptedServer) -> None:
    server.on("/generate", Answer(chunks=lambda: [b'{"generated_'], whole=False))
    with pytest.raises(ConnectionLost, match="broke"):
        connect(server.url).call("generate", "a")


@pytest.mark.parametrize(
    ("event", "leaf"),
    [
        ({"error": "oops", "error_type": "generation"}, ServerFailed),
        ({"error": "oops", "error_type": "validation"}, InvalidRequest),
        ({"error": "oops", "error_type": "overloaded"}, Overloaded),
        ({"error": {"message": "oops", "http_status_code": 422}}, InvalidRequest),
        ({"error": {"message": "oops", "type": "engine", "param": None, "code": 503}}, NotReady),
        ({"error": {"message": "oops", "code": "no number"}}, ServerFailed),
    ],
)
@pytest.mark.parametrize("method", ["stream", "stream_chat"])
def test_an_error_event_raises_after_what_came_before_it(
    connect: Connect, server: ScriptedServer, method: str, event: object, leaf: type[RequestFailed]
) -> None:
    delta = {"choices": [{"index": 0, "delta": {"content": "Once"}}]}
    together = [sse(ONCE if method == "stream" else delta) + sse(event)]  # in one chunk, to be unkind
    answer = Answer(content_type="text/event-stream", chunks=lambda: together)
    server.on("/generate_stream", answer)
    server.on("/v1/chat/completions", answer)
    pieces = connect(server.url).pieces(method, "a")
    assert next(pieces).text == "Once"
    with pytest.raises(leaf, match=r"^oops$") as caught:
        next(pieces)
    assert type(caught.value) is leaf
    assert caught.value.status is None


def test_leaving_a_stream_hangs_up(connect: Connect, server: ScriptedServer) -> None:
    def endless() -> Iterator[bytes]:
        for number in itertools.count(1):
            yield sse(token_event(number, "more ")) * 100

    server.on("/generate_stream", Answer(content_type="text/event-stream", chunks=endless))
    pieces = connect(server.url).pieces("stream", "a")
    assert next(pieces).text == "more "
    assert not server.hung_up.is_set()
    pieces.close()  # type: ignore[attr-defined]  # a generator; leaves the `with` block of the stream
    assert server.hung_up.wait(5)


@pytest.mark.parametrize(
    ("path", "answer", "call", "complaint"),
    [
        ("/generate", says("hello"), ("generate", "a"), "expected JSON from the server, found hello"),
        ("/generate", says({"text": "x"}), ("generate", "a"), "an object with `generated_text`"),
        ("/fill-mask", says({"a": 1}), ("fill_mask", "a"), "a list of candidates"),
        ("/fill-mask", says([{"score": "high"}]), ("fill_mask", "a"), "an object with `score`"),
        ("/embed", says([[0.0], [0.0]]), ("embed", "a"), "a list of 1 vectors"),
        ("/embed", says([0.0]), ("embed", "a"), "a list of 1 vectors"),
        ("/summarize", says({}), ("summarize", "a"), "a list of 1 objects with `summary_text`"),
        ("/translate", says([]), ("translate", "a"), "a list of 1 objects with `translation_text`"),
        ("/translate", says([{"text": "x"}]), ("translate", "a"), "an object with `translation_text`"),
        ("/v1/models", says([]), ("models",), "an object with `data`"),
        ("/v1/chat/completions", says({"choices": []}), ("chat", "a"), "something in `choices`"),
        (
            "/generate",
            says({}, status=307, headers={"location": "/x"}),
            ("generate", "a"),
            "307 and points to /x",
        ),
    ],
)
def test_an_answer_of_another_shape_is_named(
    connect: Connect, server: ScriptedServer, path: str, answer: Answer, call: tuple[str, ...], complaint: str
) -> None:
    server.on(path, answer)
    with pytest.raises(UnexpectedAnswer) as caught:
        connect(server.url).call(*call)
    assert complaint in str(caught.value)


def test_a_stream_that_is_none_is_named(connect: Connect, server: ScriptedServer) -> None:
    server.on("/generate_stream", says({"generated_text": "x"}))
    with pytest.raises(
        UnexpectedAnswer, match="expected text/event-stream from the server, found application/json"
    ):
        list(connect(server.url).pieces("stream", "a"))


# The package.


def test_every_public_name_is_listed_and_nothing_else() -> None:
    public = {name for name in vars(triptych_client) if not name.startswith("_")} - {"bench"}
    assert public | {"__version__"} == set(triptych_client.__all__)
    assert sorted(triptych_client.__all__) == list(triptych_client.__all__)


def test_every_error_is_in_the_tree_and_in_its_picture() -> None:
    import triptych_client._errors as errors

    leaves = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    assert len(leaves) == 13
    for leaf in leaves:
        assert issubclass(leaf, TriptychError)
        assert leaf.__name__ in str(errors.__doc__)
        assert leaf.__name__ in triptych_client.__all__


def test_both_clients_offer_the_same() -> None:
    def methods(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")} - {"close", "aclose"}

    assert methods(Client) == methods(AsyncClient)

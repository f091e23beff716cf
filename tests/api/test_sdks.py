"""The clients that people already use, against a real socket: they are the judges of our wire."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from huggingface_hub import (
    ChatCompletionInputJSONSchema,
    ChatCompletionInputResponseFormatJSONSchema,
    InferenceClient,
)
from huggingface_hub.errors import OverloadedError, ValidationError

from server.api.app import create_app
from server.errors import EngineFailed, Overloaded
from server.request import GenerateRequest, Grammar, GrammarKind
from tests.api.live import live_server
from tests.fakes import TRANSLATOR, FakeEngine


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live_server(create_app(FakeEngine())) as url:
        yield url


def test_text_generation(url: str) -> None:
    client = InferenceClient(f"{url}/generate")
    assert client.text_generation("hi") == "Hello!"
    answer = client.text_generation("hi", details=True, do_sample=True, seed=3, max_new_tokens=2)
    assert answer.generated_text == "Hello"
    assert answer.details is not None
    assert answer.details.finish_reason == "length"
    assert answer.details.seed == 3
    assert [token.text for token in answer.details.tokens] == ["Hel", "lo"]


def test_text_generation_as_a_stream(url: str) -> None:
    client = InferenceClient(f"{url}/generate")
    assert "".join(client.text_generation("hi", stream=True)) == "Hello!"
    events = list(client.text_generation("hi", stream=True, details=True))
    assert [event.token.text for event in events] == ["Hel", "lo", "!"]
    assert events[-1].generated_text == "Hello!"
    assert events[-1].details is not None
    assert events[-1].details.input_length == 1


def test_fill_mask(url: str) -> None:
    answer = InferenceClient(f"{url}/fill-mask").fill_mask("Paris is the [MASK].", top_k=2)
    assert [candidate.token_str for candidate in answer] == ["capital", "heart"]
    assert answer[0].sequence == "Paris is the capital."


def test_feature_extraction(url: str) -> None:
    vectors = InferenceClient(f"{url}/embed").feature_extraction("a b", normalize=True, truncate=True)
    assert vectors.tolist() == [[0.5, -0.25]]


def test_chat_completion(url: str) -> None:
    client = InferenceClient(base_url=url)
    messages = [{"role": "user", "content": "hi"}]
    answer = client.chat_completion(messages, max_tokens=2)
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "length"
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat_completion(messages, stream=True)]
    assert "".join(pieces) == "Hello!"


def test_chat_completion_with_scores_and_samples(url: str) -> None:
    answer = InferenceClient(base_url=url).chat_completion(
        [{"role": "user", "content": "hi"}], n=2, logprobs=True, top_logprobs=2, max_tokens=1, seed=3
    )
    assert [choice.message.content for choice in answer.choices] == ["Hel", "Hel"]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [(entry.token, entry.logprob) for entry in logprobs.content] == [("Hel", -0.5)]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["Hel", "Hel~"]


def test_chat_completion_of_a_given_shape() -> None:
    engine = FakeEngine()
    schema: dict[str, object] = {"type": "object", "properties": {"name": {"type": "string"}}}
    wish = ChatCompletionInputResponseFormatJSONSchema(
        type="json_schema", json_schema=ChatCompletionInputJSONSchema(name="colour", schema=schema)
    )
    with live_server(create_app(engine)) as url:
        InferenceClient(base_url=url).chat_completion(
            [{"role": "user", "content": "hi"}], response_format=wish
        )
    (request,) = engine.asked
    assert isinstance(request, GenerateRequest)
    assert request.grammar == Grammar(kind=GrammarKind.JSON_SCHEMA, source=json.dumps(schema))


def test_text_generation_with_scores_and_samples(url: str) -> None:
    answer = InferenceClient(f"{url}/generate").text_generation(
        "hi", details=True, do_sample=True, best_of=2, top_n_tokens=2, decoder_input_details=True
    )
    assert answer.details is not None
    assert [token.text for token in answer.details.prefill] == ["hi"]
    assert answer.details.best_of_sequences is not None
    assert [other.generated_text for other in answer.details.best_of_sequences] == ["Hello!"]
    top: Any = answer.details.top_tokens  # its type says objects; it leaves them dictionaries
    assert [token["text"] for token in top[0]] == ["Hel", "Hel~"]


def test_endpoint_info_and_health(url: str) -> None:
    client = InferenceClient(url, provider="hf-inference")
    assert client.get_endpoint_info()["model_id"] == "somewhere/gpt"
    assert client.health_check()


def test_errors_become_the_clients_own(url: str) -> None:
    with pytest.raises(ValidationError, match="must be strictly positive"):
        InferenceClient(f"{url}/generate").text_generation("hi", temperature=0)
    with (
        live_server(create_app(FakeEngine(refusal=Overloaded(1)))) as full,
        pytest.raises(OverloadedError, match="Model is overloaded"),
    ):
        InferenceClient(f"{full}/generate").text_generation("hi")


def test_a_failure_in_mid_stream_reaches_the_client() -> None:
    engine = FakeEngine(failure=EngineFailed("gone"), fails_at=1)
    with live_server(create_app(engine)) as url:
        client = InferenceClient(f"{url}/generate")  # it closes its streams when it is forgotten
        stream = client.text_generation("hi", stream=True)
        assert next(iter(stream)) == "Hel"
        with pytest.raises(Exception, match="gone"):
            list(stream)


def test_events_arrive_one_by_one_and_a_hang_up_ends_the_work() -> None:
    engine = FakeEngine(pauses_s={1: 60})
    with live_server(create_app(engine)) as url:
        with httpx.stream("POST", f"{url}/generate_stream", json={"inputs": "hi"}) as response:
            assert "Hel" in next(line for line in response.iter_lines() if line.startswith("data: "))
        deadline = time.monotonic() + 5
        while engine.running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.running == 0


def test_a_hang_up_without_a_stream_ends_the_work_too() -> None:
    engine = FakeEngine(pauses_s={1: 60})
    with live_server(create_app(engine)) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/generate", json={"inputs": "hi"}, timeout=0.2)
        deadline = time.monotonic() + 5
        while engine.running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.running == 0


def test_too_large_a_body_is_refused_before_it_is_read(url: str) -> None:
    response = httpx.post(f"{url}/generate", json={"inputs": "x" * 3_000_000})
    assert response.status_code == 413
    assert "at most 2097152 bytes" in response.json()["error"]


@pytest.fixture(scope="module")
def translator() -> Iterator[str]:
    with live_server(create_app(FakeEngine(cards=(TRANSLATOR,)))) as url:
        yield url


@pytest.mark.parametrize("path", ["", "/summarize", "/models/t5", "/models/t5/pipeline/summarization"])
def test_summarization(translator: str, path: str) -> None:
    client = InferenceClient(f"{translator}{path}")
    assert client.summarization("a long text").summary_text == "Hello!"
    short = client.summarization("a", generate_parameters={"max_new_tokens": 2}, truncation="only_first")
    assert short.summary_text == "Hello"


@pytest.mark.parametrize("path", ["/translate", "/?task=translation", "/models/t5/pipeline/translation"])
def test_translation(translator: str, path: str) -> None:
    assert InferenceClient(f"{translator}{path}").translation("a text").translation_text == "Hello!"


def test_translation_between_languages() -> None:
    engine = FakeEngine(cards=(TRANSLATOR,), spoken=("en", "de"))
    with live_server(create_app(engine)) as url:
        answer = InferenceClient(url).translation("a text", src_lang="en", tgt_lang="de")
    assert answer.translation_text == "Hello!"
    assert isinstance(engine.asked[0], GenerateRequest)
    assert engine.asked[0].target_language == "de"


def test_one_address_for_every_task(url: str) -> None:
    client = InferenceClient(url)
    assert client.text_generation("hi") == "Hello!"
    assert [one.token_str for one in client.fill_mask("a [MASK].", targets=["b"], model=f"{url}")] == ["b"]
    assert client.feature_extraction("a b", normalize=True).shape[-1] == 2
    nested = InferenceClient(f"{url}/models/org/bert")
    assert nested.fill_mask("a [MASK].", top_k=1)[0].token_str == "capital"

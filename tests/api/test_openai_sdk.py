"""OpenAI's own client against a real socket: the judge of this dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam
from pydantic import BaseModel

from server.api.app import create_app
from server.errors import EngineFailed, Overloaded
from server.request import GenerateRequest, GrammarKind
from tests.api.live import live_server
from tests.fakes import FakeEngine

Connect = Callable[[FakeEngine], OpenAI]

HI = [ChatCompletionUserMessageParam(role="user", content="hi")]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A client of a server over the engine that is passed in."""
    with ExitStack() as stack:

        def connect(engine: FakeEngine) -> OpenAI:
            url = stack.enter_context(live_server(create_app(engine)))
            return stack.enter_context(OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0))

        yield connect


def test_texts_with_scores(connect: Connect) -> None:
    client = connect(FakeEngine(others=(("B",),), cached_tokens=1))
    answer = client.completions.create(model="gpt", prompt=[7, 8], n=2, logprobs=2, echo=True, seed=5)
    first, second = answer.choices
    assert (first.index, first.text, first.finish_reason) == (0, "<7><8>Hello!", "stop")
    assert (second.index, second.text) == (1, "<7><8>B")
    assert first.logprobs is not None
    assert first.logprobs.tokens == ["<7>", "<8>", "Hel", "lo", "!"]
    assert first.logprobs.token_logprobs == [None, -1.0, -0.5, -0.5, -0.5]
    assert first.logprobs.top_logprobs is not None
    assert first.logprobs.top_logprobs[1] == {"<8>": -1.0, "<8>~": -2.0}
    assert first.logprobs.text_offset == [0, 3, 6, 9, 11]
    assert answer.system_fingerprint == "fp_decoder"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 1


def test_texts_as_a_stream(connect: Connect) -> None:
    client = connect(FakeEngine(others=(("B",),)))
    texts, usage = {0: "", 1: ""}, None
    with client.completions.create(
        model="gpt", prompt="a", n=2, stream=True, stream_options={"include_usage": True}, logprobs=0
    ) as chunks:
        for chunk in chunks:
            usage = chunk.usage
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                assert choice.logprobs is not None
                assert "".join(choice.logprobs.tokens or ()) == choice.text
    assert texts == {0: "Hello!", 1: "B"}
    assert usage is not None
    assert usage.total_tokens == 5


def test_a_chat_with_scores(connect: Connect) -> None:
    client = connect(FakeEngine(others=(("B",),)))
    answer = client.chat.completions.create(
        model="gpt", messages=HI, n=2, logprobs=True, top_logprobs=2, max_completion_tokens=1
    )
    assert [choice.message.content for choice in answer.choices] == ["Hel", "B"]
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    (entry,) = logprobs.content
    assert (entry.token, entry.logprob, bytes(entry.bytes or ())) == ("Hel", -0.5, b"Hel")
    assert [top.token for top in entry.top_logprobs] == ["Hel", "Hel~"]


def test_a_chat_as_the_clients_own_stream(connect: Connect) -> None:
    """It puts chunks together again, and is strict about their order."""
    client = connect(FakeEngine(others=(("B",),)))
    with client.chat.completions.stream(
        model="gpt", messages=HI, n=2, logprobs=True, stream_options={"include_usage": True}
    ) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert {"content.delta", "content.done", "logprobs.content.delta"} <= kinds
    assert [choice.message.content for choice in answer.choices] == ["Hello!", "B"]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    assert answer.choices[0].logprobs is not None
    tokens = [entry.token for entry in answer.choices[0].logprobs.content or ()]
    assert tokens == ["Hel", "lo", "!"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


class Colour(BaseModel):
    name: str
    warm: bool


def test_an_answer_of_a_given_shape(connect: Connect) -> None:
    engine = FakeEngine(script=('{"name": ', '"red", "warm"', ": true}"))
    answer = connect(engine).chat.completions.parse(model="gpt", messages=HI, response_format=Colour)
    assert answer.choices[0].message.parsed == Colour(name="red", warm=True)
    (request,) = engine.asked
    assert isinstance(request, GenerateRequest)
    assert request.grammar is not None
    assert request.grammar.kind is GrammarKind.JSON_SCHEMA
    assert '"warm"' in request.grammar.source


def test_a_deadline_is_read_as_the_word_it_is(connect: Connect) -> None:
    """Its type lists no such reason, but it does not check; only who sends `timeout` can meet it."""
    client = connect(FakeEngine(expires_at=2))
    text = client.completions.create(model="gpt", prompt="a", extra_body={"timeout": 0.5}).choices[0]
    assert (text.text, str(text.finish_reason)) == ("Hello", "timeout")
    chat = client.chat.completions.create(model="gpt", messages=HI, extra_body={"timeout": 0.5}).choices[0]
    assert (chat.message.content, str(chat.finish_reason)) == ("Hello", "timeout")
    with client.chat.completions.stream(model="gpt", messages=HI, extra_body={"timeout": 0.5}) as stream:
        final = stream.get_final_completion().choices[0]
    assert (final.message.content, str(final.finish_reason)) == ("Hello", "timeout")


def test_what_the_client_has_no_name_for_is_there_all_the_same(connect: Connect) -> None:
    client = connect(FakeEngine())
    extra = {"return_token_ids": True, "receipt": True, "min_p": 0.1, "priority": 1}
    (choice,) = client.completions.create(model="gpt", prompt=[7, 8], extra_body=extra).choices
    assert choice.model_extra is not None
    assert choice.model_extra["token_ids"] == [10, 11, 12]
    assert choice.model_extra["receipt"]["output_ids"] == [10, 11, 12]


def test_embeddings_and_models(connect: Connect) -> None:
    client = connect(FakeEngine())
    answer = client.embeddings.create(model="org/bert", input=["a", "b"])
    assert [item.embedding for item in answer.data] == [[0.5, -0.25]] * 2
    assert [model.id for model in client.models.list()] == ["gpt", "org/bert"]
    assert client.models.retrieve("gpt").owned_by == "triptych"


def test_errors_become_the_clients_own(connect: Connect) -> None:
    client = connect(FakeEngine())
    with pytest.raises(openai.BadRequestError, match="`best_of` must be at least") as bad:
        client.completions.create(model="gpt", prompt="a", n=3, best_of=2)
    assert bad.value.param == "best_of"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.RateLimitError) as full:
        connect(FakeEngine(refusal=Overloaded(1.5))).completions.create(model="gpt", prompt="a")
    assert full.value.response.headers["retry-after-ms"] == "1500"


def test_a_failure_in_mid_stream_reaches_the_client(connect: Connect) -> None:
    client = connect(FakeEngine(failure=EngineFailed("gone"), fails_at=1))
    with client.chat.completions.create(model="gpt", messages=HI, stream=True) as chunks:
        assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "Hel"]
        with pytest.raises(openai.APIError, match="gone"):
            next(chunks)

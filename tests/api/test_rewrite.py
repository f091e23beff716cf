"""`/summarize` and `/translate`: what they take, what the folder adds, what they ask of the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from httpx import AsyncClient

from server.request import Beams, EarlyStopping, GenerateRequest
from server.text.generation_defaults import GenerationDefaults
from tests.api.conftest import Served
from tests.fakes import DECODER, TRANSLATOR, FakeEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(cards=(TRANSLATOR,))


@pytest.fixture
async def client(engine: FakeEngine, served: Served) -> AsyncIterator[AsyncClient]:
    async with served(engine) as client:
        yield client


def asked(engine: FakeEngine) -> GenerateRequest:
    """The only request."""
    (request,) = engine.asked
    assert isinstance(request, GenerateRequest)
    return request


async def refusal(client: AsyncClient, path: str, **body: Any) -> str:
    response = await client.post(path, json={"inputs": "a text"} | body)
    assert response.status_code == 422, response.text
    return str(response.json()["error"])


async def test_each_text_has_its_summary(client: AsyncClient, engine: FakeEngine) -> None:
    response = await client.post("/summarize", json={"inputs": ["one", "two"]})
    assert response.json() == [{"summary_text": "Hello!"}] * 2
    one = await client.post("/summarize", json={"inputs": "one"})
    assert one.json() == [{"summary_text": "Hello!"}]


async def test_a_translation(client: AsyncClient, engine: FakeEngine) -> None:
    response = await client.post("/translate", json={"inputs": "one"})
    assert response.json() == [{"translation_text": "Hello!"}]
    request = asked(engine)
    assert request.sampling.greedy
    assert (request.max_new_tokens, request.beams) == (63, None)  # all that the fake's context holds


async def test_the_folder_says_how(client: AsyncClient, engine: FakeEngine) -> None:
    engine.defaults = GenerationDefaults(
        num_beams=12,
        length_penalty=2.0,
        early_stopping=True,
        no_repeat_ngram_size=3,
        min_length=11,
        max_length=41,
        tasks={"summarization": {"prefix": "summarize: ", "num_beams": 4}},
    )
    await client.post("/summarize", json={"inputs": "a text"})
    request = asked(engine)
    assert request.prompt == "summarize: a text"
    assert request.beams == Beams(width=4, length_penalty=2.0, early_stopping=EarlyStopping.AT_ONCE)
    assert (request.max_new_tokens, request.sampling.min_new_tokens) == (40, 10)
    assert request.sampling.no_repeat_ngram == 3
    engine.asked.clear()
    await client.post("/translate", json={"inputs": "a text"})
    assert asked(engine).prompt == "a text"
    assert asked(engine).beams == Beams(width=8, length_penalty=2.0, early_stopping=EarlyStopping.AT_ONCE)


@pytest.mark.parametrize(
    ("given", "most", "least", "width", "temperature"),
    [
        ({"max_new_tokens": 5}, 5, 5, 4, 0.0),
        ({"max_length": 6}, 5, 5, 4, 0.0),
        ({"min_length": 3}, 40, 2, 4, 0.0),
        ({"num_beams": 1}, 40, 10, None, 0.0),
        ({"num_beams": 2}, 40, 10, 2, 0.0),
        ({"do_sample": True}, 40, 10, None, 1.0),
        ({"temperature": 0.5}, 40, 10, None, 0.5),
        ({"top_k": 3}, 40, 10, None, 1.0),
    ],
)
async def test_the_request_has_the_last_word(
    client: AsyncClient,
    engine: FakeEngine,
    given: dict[str, Any],
    most: int,
    least: int,
    width: int | None,
    temperature: float,
) -> None:
    engine.defaults = GenerationDefaults(num_beams=4, min_length=11, max_length=41)
    body = {"inputs": "a text", "parameters": {"generate_parameters": given}}
    response = await client.post("/summarize", json=body)
    assert response.status_code == 200, response.text
    request = asked(engine)
    assert (request.max_new_tokens, request.sampling.min_new_tokens) == (most, least)
    assert (request.beams and request.beams.width) == width
    assert request.sampling.temperature == temperature


async def test_languages_go_to_the_tokenizer(client: AsyncClient, engine: FakeEngine) -> None:
    engine.spoken = ("en_XX", "de_DE")
    languages = {"src_lang": "en_XX", "tgt_lang": "de_DE"}
    await client.post("/translate", json={"inputs": "a text", "parameters": languages})
    assert (asked(engine).source_language, asked(engine).target_language) == ("en_XX", "de_DE")


async def test_pairs_that_a_model_was_trained_for_by_name(client: AsyncClient, engine: FakeEngine) -> None:
    prefix = "translate English to German: "
    engine.defaults = GenerationDefaults(tasks={"translation_en_to_de": {"prefix": prefix}})
    languages = {"src_lang": "en", "tgt_lang": "de"}
    await client.post("/translate", json={"inputs": "a text", "parameters": languages})
    assert asked(engine).prompt == f"{prefix}a text"
    assert asked(engine).target_language is None
    said = await refusal(client, "/translate", parameters={"src_lang": "de", "tgt_lang": "en"})
    assert "its pairs: en_to_de" in said


async def test_a_translator_that_has_to_be_told_into_what_is_told(
    client: AsyncClient, engine: FakeEngine
) -> None:
    engine.spoken, engine.needs_target = ("en_XX", "de_DE"), True
    for parameters in ({}, {"src_lang": "en_XX"}):
        said = await refusal(client, "/translate", parameters=parameters)
        assert "`tgt_lang` is needed" in said
    body = {"inputs": "a text", "parameters": {"tgt_lang": "de_DE"}}
    assert (await client.post("/translate", json=body)).status_code == 200
    assert (await client.post("/summarize", json={"inputs": "a text"})).status_code == 200


async def test_truncation_is_asked_for(client: AsyncClient, engine: FakeEngine) -> None:
    await client.post("/summarize", json={"inputs": "a text", "parameters": {"truncation": "only_first"}})
    assert asked(engine).truncate == TRANSLATOR.source_tokens


async def test_spaces_before_punctuation_are_taken_back(served: Served) -> None:
    engine = FakeEngine(cards=(TRANSLATOR,), script=("Hello", " ,", " you", " !"))
    async with served(engine) as client:
        plain = await client.post("/translate", json={"inputs": "a"})
        assert plain.json() == [{"translation_text": "Hello , you !"}]
        tidy = {"inputs": "a", "parameters": {"clean_up_tokenization_spaces": True}}
        assert (await client.post("/translate", json=tidy)).json() == [{"translation_text": "Hello, you!"}]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"generate_parameters": {"beems": 3}},
            "unknown field `parameters.generate_parameters.beems`",
        ),
        ({"generate_parameters": {"num_beams": 9}}, "num_beams` must be"),
        ({"generate_parameters": {"max_length": 9, "max_new_tokens": 3}}, "exclude each other"),
        ({"generate_parameters": {"num_beams": 2, "top_k": 4}}, "`top_k` and `num_beams` exclude each other"),
        ({"generate_parameters": {"num_beams": 2, "temperature": 0.3}}, "`temperature` and `num_beams`"),
        ({"generate_parameters": {"num_beams": 2, "do_sample": True}}, "`do_sample` and `num_beams`"),
        ({"generate_parameters": {"timeout": 2.0}}, "`timeout` stands beside `generate_parameters`"),
        ({"max_length": 30}, "`parameters` takes `max_length` in `generate_parameters`"),
        ({"num_beams": 4}, "`parameters` takes `num_beams` in `generate_parameters`"),
        ({"truncation": "sometimes"}, "truncation"),
        ({"tgt_lang": "de"}, "unknown field `parameters.tgt_lang`"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    client: AsyncClient, parameters: dict[str, Any], message: str
) -> None:
    assert message in await refusal(client, "/summarize", parameters=parameters)


async def test_empty_texts_are_refused(client: AsyncClient) -> None:
    assert "empty" in await refusal(client, "/summarize", inputs=["", "a"])
    assert "empty" in await refusal(client, "/translate", inputs=[])


async def test_models_that_cannot_do_it_are_told(served: Served) -> None:
    async with served(FakeEngine()) as client:
        response = await client.post("/summarize", json={"inputs": "a"})
        assert "no loaded model can do summarization" in response.text


@pytest.mark.parametrize("path", ["/summarize", "/translate"])
async def test_a_text_that_a_deadline_cuts_short_is_no_answer(served: Served, path: str) -> None:
    async with served(FakeEngine(cards=(TRANSLATOR,), expires_at=2)) as client:
        response = await client.post(path, json={"inputs": "a", "parameters": {"timeout": 1.0}})
        assert response.status_code == 429
        assert "`timeout` passed before the text was complete" in response.text
        assert (await client.post(path, json={"inputs": "a"})).status_code == 200


MARIAN = replace(TRANSLATOR, name="opus", architecture="marian")


@pytest.mark.parametrize(
    ("path", "body", "model", "field"),
    [
        (
            "/models/opus",
            {"parameters": {"generate_parameters": {"max_new_tokens": 2}}},
            "opus",
            "translation",
        ),
        ("/models/opus", {"parameters": {"truncation": "only_first"}}, "opus", "translation"),
        ("/", {"model": "opus"}, "opus", "translation"),
        ("/", {"model": "t5"}, "t5", "summary"),
        ("/", {"parameters": {"generate_parameters": {"max_new_tokens": 2}}}, "opus", "translation"),
        ("/models/t5", {"model": "opus"}, "opus", "translation"),
        ("/models/opus", {"stream": False, "parameters": {"tgt_lang": "de"}}, "opus", "generated"),
        ("/models/opus", {"parameters": {"tgt_lang": "de", "max_new_tokens": 2}}, "opus", "generated"),
    ],
)
async def test_one_address_does_what_the_model_that_is_meant_was_made_for(
    served: Served, path: str, body: dict[str, Any], model: str, field: str
) -> None:
    engine = FakeEngine(cards=(DECODER, MARIAN, TRANSLATOR), spoken=("en", "de"))
    async with served(engine) as client:
        response = await client.post(path, json={"inputs": "a text"} | body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert f"{field}_text" in (answer[0] if isinstance(answer, list) else answer)
    assert asked(engine).model == model

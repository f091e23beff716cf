"""TGI's wire: shapes, headers, the quirk of `parameters`, and every token an event."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from httpx import AsyncClient, Response

from server.api.limits import Limits
from server.request import GenerateRequest, Grammar, GrammarKind, Sampling
from tests.api.conftest import Served
from tests.fakes import DECODER, FakeEngine

pytestmark = pytest.mark.anyio


def last_asked(engine: FakeEngine) -> GenerateRequest:
    request = engine.asked[-1]
    assert isinstance(request, GenerateRequest)
    return request


def events_of(response: Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


async def test_a_whole_answer_without_details(client: AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "hi"})
    assert response.status_code == 200
    assert response.json() == {"generated_text": "Hello!", "details": None}


async def test_details_list_every_token_and_the_seed(client: AsyncClient) -> None:
    parameters = {"details": True, "do_sample": True, "seed": 7, "max_new_tokens": 2}
    response = await client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert response.json() == {
        "generated_text": "Hello",
        "details": {
            "finish_reason": "length",
            "generated_tokens": 2,
            "seed": 7,
            "prefill": [],
            "tokens": [
                {"id": 10, "text": "Hel", "logprob": -0.5, "special": False},
                {"id": 11, "text": "lo", "logprob": -0.5, "special": False},
            ],
        },
    }


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [({"max_new_tokens": 1}, "length"), ({}, "eos_token"), ({"stop": ["lo"]}, "stop_sequence")],
)
async def test_finish_reasons_have_tgis_names(
    client: AsyncClient, parameters: dict[str, object], reason: str
) -> None:
    body = {"inputs": "hi", "parameters": {"details": True, **parameters}}
    response = await client.post("/generate", json=body)
    assert response.json()["details"]["finish_reason"] == reason


async def test_a_greedy_answer_has_no_seed(client: AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "parameters": {"details": True}})
    assert response.json()["details"]["seed"] is None


async def test_a_drawn_seed_is_told(client: AsyncClient, engine: FakeEngine) -> None:
    body = {"inputs": "hi", "parameters": {"details": True, "do_sample": True}}
    seeds = [(await client.post("/generate", json=body)).json()["details"]["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert seeds[1] == last_asked(engine).sampling.seed


@pytest.mark.parametrize(
    ("body", "temperature"),
    [
        ({}, 1.0),
        ({"parameters": None}, 1.0),
        ({"parameters": {}}, 0.0),
        ({"parameters": {"do_sample": True}}, 1.0),
        ({"parameters": {"temperature": 0.7}}, 0.7),
        ({"parameters": {"top_k": 5}}, 1.0),
        ({"parameters": {"top_p": 0.9}}, 1.0),
        ({"parameters": {"top_p": 1.0}}, 0.0),
        ({"parameters": {"min_p": 0.1}}, 1.0),
        ({"parameters": {"typical_p": 0.9}}, 1.0),
        ({"parameters": {"mirostat": 2}}, 1.0),
        ({"parameters": {"mirostat": 0}}, 0.0),
        ({"parameters": {"xtc_probability": 0.5}}, 1.0),
        ({"parameters": {"dynatemp_range": 0.5}}, 1.0),
        ({"parameters": {"repetition_penalty": 1.2}}, 0.0),
        ({"parameters": {"dry_multiplier": 1.0}}, 0.0),
        ({"parameters": {"temperature": 1e-9}}, 0.0),
    ],
)
async def test_who_samples_and_who_is_greedy(
    client: AsyncClient, engine: FakeEngine, body: dict[str, object], temperature: float
) -> None:
    await client.post("/generate", json={"inputs": "hi", **body})
    assert last_asked(engine).sampling.temperature == temperature


async def test_every_parameter_arrives(client: AsyncClient, engine: FakeEngine) -> None:
    parameters = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "seed": 2**64 - 1,
        "max_new_tokens": 4,
        "stop": ["\n", "END"],
        "ignore_eos": True,
        "truncate": 8,
    }
    await client.post("/generate", json={"inputs": "hi", "parameters": parameters, "model": "gpt"})
    assert last_asked(engine) == GenerateRequest(
        prompt="hi",
        sampling=Sampling(
            temperature=0.5, top_k=3, top_p=0.9, min_p=0.05, repetition_penalty=1.1, seed=2**64 - 1
        ),
        model="gpt",
        max_new_tokens=4,
        stop=("\n", "END"),
        ignore_eos=True,
        truncate=8,
    )


@pytest.mark.parametrize("name", ["n_predict", "num_predict", "max_tokens", "max_completion_tokens"])
async def test_other_names_of_max_new_tokens(client: AsyncClient, engine: FakeEngine, name: str) -> None:
    await client.post("/generate", json={"inputs": "hi", "parameters": {name: 2}})
    assert last_asked(engine).max_new_tokens == 2


async def test_what_the_hugging_face_client_always_sends_is_accepted(client: AsyncClient) -> None:
    parameters: dict[str, object] = {
        "best_of": 1,
        "decoder_input_details": False,
        "frequency_penalty": 0,
        "typical_p": 1.0,
        "watermark": False,
        "top_n_tokens": 0,
        "grammar": None,
        "adapter_id": None,
        "return_full_text": False,
        "stop": [],
    }
    response = await client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert response.status_code == 200, response.text


async def test_the_full_text_begins_with_the_prompt(client: AsyncClient) -> None:
    body = {"inputs": "hi ", "parameters": {"return_full_text": True}}
    assert (await client.post("/generate", json=body)).json()["generated_text"] == "hi Hello!"


async def test_headers_of_a_whole_answer(client: AsyncClient) -> None:
    headers = (await client.post("/generate", json={"inputs": "one two"})).headers
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "7"
    assert headers["x-prompt-tokens"] == "2"
    assert headers["x-generated-tokens"] == "3"
    assert float(headers["x-compute-time"]) < 5
    for name in ("x-total-time", "x-validation-time", "x-inference-time", "x-time-per-token"):
        assert int(headers[name]) < 5000


async def test_a_stream_byte_by_byte(client: AsyncClient) -> None:
    body = {"inputs": "a b", "parameters": {"details": True, "max_new_tokens": 2}, "stream": True}
    response = await client.post("/generate", json=body)
    first, second, rest = response.content.split(b"\n\n")
    stream = first.split(b":")[1].strip().decode()
    assert first.decode() == (
        f"id: {stream}:1\n"
        'data: {"index":1,"token":{"id":10,"text":"Hel","logprob":-0.5,"special":false},'
        '"generated_text":null,"details":null}'
    )
    assert second.decode() == (
        f"id: {stream}:2\n"
        'data: {"index":2,"token":{"id":11,"text":"lo","logprob":-0.5,"special":false},'
        '"generated_text":"Hello",'
        '"details":{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":2}}'
    )
    assert rest == b""


async def test_headers_of_a_stream(client: AsyncClient) -> None:
    headers = (await client.post("/generate_stream", json={"inputs": "hi"})).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "2"


async def test_a_stream_without_details_still_ends_with_the_text(client: AsyncClient) -> None:
    response = await client.post("/generate_stream", json={"inputs": "hi"})
    events = events_of(response)
    assert [event["index"] for event in events] == [1, 2, 3]
    assert [event["generated_text"] for event in events] == [None, None, "Hello!"]
    assert events[-1]["details"] is None
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("name", ["dummy", "tgi", "default"])
async def test_placeholders_mean_the_default_model(
    client: AsyncClient, engine: FakeEngine, name: str
) -> None:
    assert (await client.post("/generate", json={"inputs": "hi", "model": name})).status_code == 200
    assert last_asked(engine).model == "gpt"


async def test_no_placeholder_hides_a_model_of_that_name(served: Served) -> None:
    engine = FakeEngine(cards=(DECODER, replace(DECODER, name="default")))
    async with served(engine) as client:
        await client.post("/generate", json={"inputs": "hi", "model": "default"})
    assert last_asked(engine).model == "default"


async def test_generate_stream_refuses_not_to_stream(client: AsyncClient) -> None:
    response = await client.post("/generate_stream", json={"inputs": "hi", "stream": False})
    assert response.status_code == 422
    assert "`stream`" in response.json()["error"]


@pytest.fixture
def three() -> FakeEngine:
    """Its second sample is the most probable, token for token."""
    return FakeEngine(
        script=("good",), others=(("bet", "ter"), ("bad",)), logprobs=(-0.5, -0.25, -2.0), cached_tokens=1
    )


async def test_the_best_of_several_samples_is_the_answer(served: Served, three: FakeEngine) -> None:
    parameters = {"best_of": 3, "do_sample": True, "seed": 7, "details": True}
    async with served(three) as client:
        answer = (await client.post("/generate", json={"inputs": "hi", "parameters": parameters})).json()
    assert answer["generated_text"] == "better"
    assert answer["details"]["generated_tokens"] == 2
    others = answer["details"]["best_of_sequences"]
    assert [other["generated_text"] for other in others] == ["good", "bad"]
    assert others[1] == {
        "generated_text": "bad",
        "finish_reason": "eos_token",
        "generated_tokens": 1,
        "seed": 7,
        "prefill": [],
        "tokens": [{"id": 10, "text": "bad", "logprob": -2.0, "special": False}],
    }


async def test_samples_differ_by_their_number_only(served: Served, three: FakeEngine) -> None:
    parameters = {"best_of": 3, "temperature": 0.7, "seed": 7}
    async with served(three) as client:
        answer = (await client.post("/generate", json={"inputs": "hi", "parameters": parameters})).json()
    first, *rest = (each for each in three.asked if isinstance(each, GenerateRequest))
    assert answer == {"generated_text": "better", "details": None}
    assert [each.sampling.sample for each in (first, *rest)] == [0, 1, 2]
    assert all(replace(each, sampling=replace(each.sampling, sample=0)) == first for each in rest)


async def test_samples_are_generated_side_by_side(served: Served) -> None:
    engine = FakeEngine(pauses_s={0: 0.05})
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, engine.running)
            await asyncio.sleep(0.005)

    body = {"inputs": "hi", "parameters": {"best_of": 4, "do_sample": True}}
    async with served(engine) as client:
        watching = asyncio.create_task(watch())
        await client.post("/generate", json=body)
        watching.cancel()
    assert most == 4
    assert engine.running == 0


async def test_the_cost_of_a_request_counts_its_samples(served: Served, engine: FakeEngine) -> None:
    parameters = {"best_of": 3, "do_sample": True, "max_new_tokens": 50}
    async with served(engine, limits=Limits(max_cost=100)) as client:
        response = await client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert response.status_code == 422
    assert "prompts x samples x new tokens must be <= 100. Given: 150" in response.json()["error"]
    assert not engine.asked


async def test_the_cost_of_a_request_counts_its_beams(served: Served, engine: FakeEngine) -> None:
    parameters = {"num_beams": 3, "max_new_tokens": 50}
    async with served(engine, limits=Limits(max_cost=100)) as client:
        response = await client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert response.status_code == 422
    assert "prompts x samples x beams x new tokens must be <= 100. Given: 150" in response.json()["error"]
    assert not engine.asked


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_what_a_stream_cannot_tell_is_refused(
    client: AsyncClient, path: str, parameters: dict[str, object], message: str
) -> None:
    response = await client.post(path, json={"inputs": "hi", "parameters": parameters, "stream": True})
    assert response.status_code == 422
    assert response.json()["error"] == f"Input validation error: {message}"


async def test_the_prompt_is_scored_with_the_answer(client: AsyncClient, engine: FakeEngine) -> None:
    parameters = {"decoder_input_details": True, "max_new_tokens": 1}
    response = await client.post("/generate", json={"inputs": "once upon a", "parameters": parameters})
    assert response.json()["details"]["prefill"] == [
        {"id": 4, "text": "once", "logprob": None},
        {"id": 4, "text": "upon", "logprob": -1.0},
        {"id": 1, "text": "a", "logprob": -2.0},
    ]
    assert response.json()["generated_text"] == "Hel"
    assert last_asked(engine).prompt_alternatives == 0


async def test_a_prompt_may_be_scored_alone(client: AsyncClient, engine: FakeEngine) -> None:
    parameters = {"decoder_input_details": True, "max_new_tokens": 0}
    answer = (await client.post("/generate", json={"inputs": "a b", "parameters": parameters})).json()
    assert answer["generated_text"] == ""
    assert [token["logprob"] for token in answer["details"]["prefill"]] == [None, -1.0]
    assert answer["details"]["tokens"] == []
    assert answer["details"]["finish_reason"] == "length"
    assert last_asked(engine).max_new_tokens == 0


TOP_TOKENS = [
    {"id": 10, "text": "Hel", "logprob": -0.5, "special": False},
    {"id": 110, "text": "Hel~", "logprob": -1.0, "special": False},
]


async def test_the_most_probable_tokens_are_told_at_each_place(client: AsyncClient) -> None:
    parameters = {"top_n_tokens": 2, "details": True, "max_new_tokens": 1}
    body = {"inputs": "hi", "parameters": parameters}
    whole = (await client.post("/generate", json=body)).json()
    assert whole["details"]["top_tokens"] == [TOP_TOKENS]
    without_details = body | {"parameters": {"top_n_tokens": 2, "max_new_tokens": 1}}
    assert (await client.post("/generate", json=without_details)).json() == whole
    (event,) = events_of(await client.post("/generate_stream", json=body))
    assert list(event) == ["index", "token", "top_tokens", "generated_text", "details"]
    assert event["top_tokens"] == TOP_TOKENS


@pytest.mark.parametrize(
    ("grammar", "kind", "source"),
    [
        ({"type": "json", "value": {"b": 1, "a": 2}}, GrammarKind.JSON_SCHEMA, '{"b": 1, "a": 2}'),
        ({"type": "json", "value": '{"b": 1}'}, GrammarKind.JSON_SCHEMA, '{"b": 1}'),
        ({"type": "json_object", "value": {"b": 1}}, GrammarKind.JSON_SCHEMA, '{"b": 1}'),
        (
            {"type": "json_schema", "value": {"name": "x", "schema": {"b": 1}}},
            GrammarKind.JSON_SCHEMA,
            '{"b": 1}',
        ),
        ({"type": "regex", "value": "[ab]+"}, GrammarKind.REGEX, "[ab]+"),
        ({"type": "choice", "value": ["yes", "no"]}, GrammarKind.CHOICE, '["yes", "no"]'),
        ({"type": "ebnf", "value": 'start: "a"'}, GrammarKind.EBNF, 'start: "a"'),
    ],
)
async def test_a_grammar_says_what_the_text_must_be(
    client: AsyncClient, engine: FakeEngine, grammar: dict[str, object], kind: GrammarKind, source: str
) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "parameters": {"grammar": grammar}})
    assert response.status_code == 200, response.text
    assert last_asked(engine).grammar == Grammar(kind=kind, source=source)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ({"type": "json", "value": 5}, "grammar is not valid: `value` of type json must be a JSON schema"),
        ({"type": "json", "value": "{"}, "grammar is not valid: `value` is not JSON"),
        ({"type": "json", "value": "[" * 100_000}, "grammar is not valid: `value` is not JSON"),
        (
            {"type": "json_schema", "value": {"b": 1}},
            "grammar is not valid: `value` of type json_schema must",
        ),
        ({"type": "regex", "value": {}}, "grammar is not valid: `value` of type regex must be a string"),
        ({"type": "regex", "value": ""}, "grammar is not valid: `value` of type regex must be a string"),
        ({"type": "choice", "value": []}, "grammar is not valid: `value` of type choice must be a list"),
        ({"type": "choice", "value": ["a", 1]}, "grammar is not valid: `value` of type choice must be"),
        ({"type": "yaml", "value": ""}, "`parameters.grammar.type` must be 'json', 'json_object'"),
        ({"type": "json"}, "`parameters.grammar.value` is required"),
        ({"type": "regex", "value": "a", "x": 1}, "unknown field `parameters.grammar.x`"),
    ],
)
async def test_a_bad_grammar_is_named(
    client: AsyncClient, engine: FakeEngine, grammar: dict[str, object], message: str
) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "parameters": {"grammar": grammar}})
    assert response.status_code == 422
    assert response.json()["error"].startswith(f"Input validation error: {message}")
    assert not engine.asked


async def test_a_deadline_leaves_the_text_that_there_is(served: Served) -> None:
    body = {"inputs": "hi", "parameters": {"timeout": 5, "details": True}}
    async with served(FakeEngine(expires_at=2)) as client:
        answer = (await client.post("/generate", json=body)).json()
    assert answer["generated_text"] == "Hello"
    assert answer["details"]["finish_reason"] == "timeout"
    assert answer["details"]["generated_tokens"] == 2


async def test_a_stream_that_meets_its_deadline_between_tokens_still_ends_with_the_text(
    served: Served,
) -> None:
    """Clients read a token in every event: the last one's is empty, and counts for nothing."""
    body = {"inputs": "hi", "parameters": {"timeout": 5, "details": True}}
    async with served(FakeEngine(expires_at=1)) as client:
        first, last = events_of(await client.post("/generate_stream", json=body))
    assert first["token"]["text"] == "Hel"
    assert last == {
        "index": 1,
        "token": {"id": 0, "text": "", "logprob": None, "special": True},
        "generated_text": "Hel",
        "details": {"finish_reason": "timeout", "generated_tokens": 1, "seed": None, "input_length": 1},
    }


async def test_a_receipt_is_of_the_sample_that_was_chosen(served: Served, three: FakeEngine) -> None:
    parameters = {"best_of": 3, "do_sample": True, "receipt": True}
    async with served(three) as client:
        answer = (await client.post("/generate", json={"inputs": "hi", "parameters": parameters})).json()
    assert answer["receipt"]["parameters"]["sampling"]["sample"] == 1
    assert answer["receipt"]["output_ids"] == [10, 11]


async def test_a_stream_ends_with_the_receipt_that_the_document_has(
    client: AsyncClient, engine: FakeEngine
) -> None:
    body = {"inputs": "hi", "parameters": {"receipt": True, "do_sample": True, "seed": 7}}
    whole = (await client.post("/generate", json=body)).json()
    *others, last = events_of(await client.post("/generate_stream", json=body))
    assert whole["receipt"]["system_fingerprint"] == DECODER.fingerprint
    assert last["receipt"] == whole["receipt"]
    assert not any("receipt" in event for event in others)


async def test_cached_tokens_are_told(served: Served, three: FakeEngine) -> None:
    async with served(three) as client:
        assert (await client.post("/generate", json={"inputs": "hi"})).headers["x-cached-tokens"] == "1"

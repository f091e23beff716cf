"""TGI's wire: shapes, headers, the quirk of `parameters`, and every token an event."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from httpx import AsyncClient

from server.request import GenerateRequest, Sampling
from tests.api.conftest import Served
from tests.fakes import DECODER, FakeEngine

pytestmark = pytest.mark.anyio


def last_asked(engine: FakeEngine) -> GenerateRequest:
    request = engine.asked[-1]
    assert isinstance(request, GenerateRequest)
    return request


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


async def test_other_names_of_the_sampling_parameters(client: AsyncClient, engine: FakeEngine) -> None:
    parameters = {"repeat_penalty": 1.2, "sampling_seed": 5, "typ_p": 1.0, "min_new_tokens": 0}
    await client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert last_asked(engine).sampling.repetition_penalty == 1.2
    assert last_asked(engine).sampling.seed == 5


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
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
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

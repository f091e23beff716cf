"""OpenAI's wire: documents, chunks, usage, many prompts, embeddings and models."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from httpx import AsyncClient
from pydantic import BaseModel

from server.api.openai.chat import ChatBody
from server.api.openai.completions import CompletionBody
from server.request import EmbedRequest, GenerateRequest, Sampling
from tests.api.openai_wire import HI, asked, events
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def usage(prompt: int, completion: int, *, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


async def test_a_chat_document(client: AsyncClient, engine: FakeEngine) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": HI, "model": "gpt", "seed": 5})
    answer = response.json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": "gpt",
        "system_fingerprint": "fp_decoder",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": usage(3, 3),
    }
    assert response.headers["x-seed"] == "5"
    assert asked(engine) == [
        GenerateRequest(
            prompt="<user> hi\n<assistant>",
            sampling=Sampling(temperature=1.0, seed=5),
            model="gpt",
            add_special_tokens=False,
        )
    ]


async def test_a_chat_stream(client: AsyncClient) -> None:
    body = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2}
    chunks = events(await client.post("/v1/chat/completions", json=body))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert reasons == [None, None, None, "length"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 4
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == usage(3, 2)


async def test_usage_is_not_streamed_unasked(client: AsyncClient) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/completions", {"prompt": "hi"}),
    ):
        chunks = events(await client.post(path, json=body | {"stream": True}))
        assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


async def test_messages_become_what_templates_take(client: AsyncClient, engine: FakeEngine) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    await client.post("/v1/chat/completions", json={"messages": messages})
    assert asked(engine)[0].prompt == "<system> be brief\n<user> ab\n<assistant>"


async def test_the_last_message_can_be_continued(client: AsyncClient, engine: FakeEngine) -> None:
    body = {"messages": [*HI, {"role": "assistant", "content": "Well"}], "continue_final_message": True}
    await client.post("/v1/chat/completions", json=body)
    assert asked(engine)[0].prompt == "<user> hi\n<assistant> Well"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "robot", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
        {"role": "user", "content": "x", "colour": "red"},
        {"role": "assistant", "content": "x", "tool_calls": [{}]},
    ],
)
async def test_a_message_that_is_none_is_located(client: AsyncClient, message: dict[str, Any]) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": [*HI, message]})
    assert response.status_code == 400
    assert "`messages.1." in response.json()["error"]["message"]


async def test_a_text_completion_document(client: AsyncClient, engine: FakeEngine) -> None:
    response = await client.post("/v1/completions", json={"prompt": "hi", "stop": "o", "temperature": 0})
    answer = response.json()
    assert answer.pop("id").startswith("cmpl-")
    answer.pop("created")
    assert answer == {
        "object": "text_completion",
        "model": "gpt",
        "system_fingerprint": "fp_decoder",
        "choices": [
            {"index": 0, "text": "Hell", "logprobs": None, "finish_reason": "stop", "stop_reason": "o"}
        ],
        "usage": usage(1, 2),
    }
    assert asked(engine)[0].max_new_tokens == 16
    assert asked(engine)[0].sampling.greedy


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
async def test_prompts_are_texts_or_tokens_one_or_many(
    client: AsyncClient, engine: FakeEngine, prompt: object, prompts: list[object]
) -> None:
    answer = (await client.post("/v1/completions", json={"prompt": prompt, "seed": 3})).json()
    assert [request.prompt for request in asked(engine)] == prompts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(prompts)))
    assert answer["usage"]["completion_tokens"] == 3 * len(prompts)


@pytest.mark.parametrize("prompt", [5, None, [1, "a"], ["a", 1], [[-1]], [True], {"a": 1}, [["a"]]])
async def test_a_prompt_of_no_known_shape_is_refused_in_one_sentence(
    client: AsyncClient, prompt: object
) -> None:
    response = await client.post("/v1/completions", json={"prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "`prompt` must be a string, a list of strings, a list of token ids or a list of such lists"
    )


async def test_many_prompts_stream_side_by_side(client: AsyncClient, engine: FakeEngine) -> None:
    body = {"prompt": ["a", "b b"], "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(await client.post("/v1/completions", json=body))
    for index in (0, 1):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in choices) == "Hello!"
        assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert last["usage"] == usage(3, 6)
    assert engine.running == 0


async def test_sampling_and_the_extras_of_vllm_arrive(client: AsyncClient, engine: FakeEngine) -> None:
    body = {
        "prompt": "hi",
        "temperature": 0.5,
        "top_k": -1,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "max_completion_tokens": 3,
        "ignore_eos": True,
        "truncate_prompt_tokens": 5,
        "add_special_tokens": False,
        "user": "me",
    }
    response = await client.post("/v1/completions", json=body)
    (request,) = asked(engine)
    assert response.headers["x-seed"] == str(request.sampling.seed)
    assert request == GenerateRequest(
        prompt="hi",
        sampling=Sampling(
            temperature=0.5, top_p=0.9, min_p=0.1, repetition_penalty=1.1, seed=request.sampling.seed
        ),
        model="gpt",
        max_new_tokens=3,
        ignore_eos=True,
        truncate=5,
        add_special_tokens=False,
    )


async def test_neutral_values_and_nulls_are_accepted(client: AsyncClient) -> None:
    body = {
        "n": 1,
        "best_of": None,
        "frequency_penalty": 0,
        "presence_penalty": None,
        "logit_bias": {},
        "logprobs": None,
        "response_format": {"type": "text"},
        "temperature": None,
        "top_p": None,
        "stop": None,
        "seed": None,
        "max_tokens": None,
        "stream": None,
        "stream_options": None,
    }
    for path, text in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", {"messages": HI})):
        response = await client.post(path, json=text | body)
        assert response.status_code == 200, response.text


async def test_every_sampler_arrives(client: AsyncClient, engine: FakeEngine) -> None:
    body: dict[str, Any] = {
        "seed": 5,
        "typical_p": 0.9,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"7": 5, "8": -100},
        "dry_multiplier": 0.8,
        "min_tokens": 2,
        "bad_words": ["x"],
        "stop_token_ids": [9],
        "include_stop_str_in_output": True,
    }
    for path, text in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", {"messages": HI})):
        response = await client.post(path, json=body | text)
        assert response.status_code == 200, response.text
        request = asked(engine)[-1]
        chosen = request.sampling
        assert (chosen.typical_p, chosen.presence_penalty, chosen.frequency_penalty) == (0.9, 0.5, -0.5)
        assert chosen.logit_bias == ((7, 5.0), (8, -100.0))
        assert chosen.dry is not None
        assert (chosen.dry.multiplier, chosen.min_new_tokens) == (0.8, 2)
        assert (request.bad_words, request.stop_tokens, request.include_stop) == (("x",), (9,), True)


NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    0.5,
    3,
    10**30,
    "",
    "x",
    "\x00",
    [],
    [None],
    [[]],
    [[5]],
    {},
    {"5": []},
]
BODIES: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/v1/completions": (CompletionBody, {"prompt": "hi"}),
    "/v1/chat/completions": (ChatBody, {"messages": HI}),
}


@pytest.mark.parametrize("path", BODIES)
async def test_no_value_breaks_a_parameter_and_every_refusal_names_it(client: AsyncClient, path: str) -> None:
    kind, body = BODIES[path]
    for name in kind.model_json_schema()["properties"]:
        for value in NASTY:
            response = await client.post(path, json=body | {name: value})
            assert response.status_code in (200, 400, 404), (name, value, response.text)
            assert response.status_code != 400 or name in response.text, (name, value, response.text)


async def test_embeddings_as_floats(client: AsyncClient) -> None:
    response = await client.post("/v1/embeddings", json={"input": ["a b", "c"], "encoding_format": "float"})
    assert response.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
            {"object": "embedding", "index": 1, "embedding": [0.5, -0.25]},
        ],
        "model": "org/bert",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


async def test_embeddings_as_base64_are_little_endian_float32(client: AsyncClient) -> None:
    response = await client.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"})
    packed = base64.b64decode(response.json()["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == (0.5, -0.25)


async def test_embeddings_of_tokens_and_of_fewer_dimensions(client: AsyncClient, engine: FakeEngine) -> None:
    await client.post("/v1/embeddings", json={"input": [1, 2], "dimensions": 1})
    assert engine.asked == [EmbedRequest(text=(1, 2), model="org/bert", dimensions=1)]


async def test_models_are_listed_and_found_by_name(client: AsyncClient) -> None:
    answer = (await client.get("/v1/models")).json()
    assert answer["object"] == "list"
    assert [card["id"] for card in answer["data"]] == ["gpt", "org/bert"]
    assert answer["data"][0].keys() == {"id", "object", "created", "owned_by"}
    assert (await client.get("/v1/models/org/bert")).json() == answer["data"][1]


async def test_a_model_that_is_not_there_is_404(client: AsyncClient) -> None:
    response = await client.get("/v1/models/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "NotFoundError"

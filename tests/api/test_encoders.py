"""The wires of the encoders and of the tokenizers: fill-mask, TEI's embed, and tokenize in three dialects."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient

from server.errors import Overloaded
from server.request import EmbedRequest, FillMaskRequest, Side
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio

TEXT = "Paris is the [MASK]."


async def test_one_mask_gives_a_list_of_candidates(client: AsyncClient) -> None:
    response = await client.post("/fill-mask", json={"inputs": TEXT, "parameters": {"top_k": 2}})
    assert response.json() == [
        {"score": 0.5, "token": 0, "token_str": "capital", "sequence": "Paris is the capital."},
        {"score": 0.25, "token": 1, "token_str": "heart", "sequence": "Paris is the heart."},
    ]


async def test_several_masks_give_a_list_for_each(client: AsyncClient) -> None:
    answer = (await client.post("/fill-mask", json={"inputs": "[MASK] and [MASK]"})).json()
    assert len(answer) == 2
    assert [candidate["token_str"] for candidate in answer[1]] == ["capital", "heart", "centre"]


async def test_a_list_of_texts_gives_a_list_of_results(client: AsyncClient) -> None:
    answer = (await client.post("/fill-mask", json={"inputs": [TEXT, "[MASK] [MASK]"]})).json()
    assert isinstance(answer[0][0], dict)
    assert isinstance(answer[1][0], list)
    assert len((await client.post("/fill-mask", json={"inputs": [TEXT]})).json()) == 1


@pytest.mark.parametrize(
    ("parameters", "top_k", "targets"),
    [
        ({}, 5, None),
        ({"top_k": 7}, 7, None),
        ({"targets": ["heart", "soul"]}, 5, ("heart", "soul")),
        ({"targets": "heart"}, 5, ("heart",)),
    ],
)
async def test_parameters_of_fill_mask_arrive(
    client: AsyncClient,
    engine: FakeEngine,
    parameters: dict[str, Any],
    top_k: int,
    targets: tuple[str, ...] | None,
) -> None:
    await client.post("/fill-mask", json={"inputs": TEXT, "parameters": parameters, "model": "dummy"})
    assert engine.asked == [FillMaskRequest(text=TEXT, model="org/bert", top_k=top_k, targets=targets)]


@pytest.mark.parametrize("parameters", [{"top_k": 0}, {"top_k": 1001}, {"targets": []}, {"targets": [""]}])
async def test_bad_parameters_of_fill_mask_are_named(client: AsyncClient, parameters: dict[str, Any]) -> None:
    response = await client.post("/fill-mask", json={"inputs": TEXT, "parameters": parameters})
    assert response.status_code == 422
    assert f"`parameters.{next(iter(parameters))}" in response.json()["error"]


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [
        ("a b", ["a b"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [(1, 2, 3)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
async def test_embeddings_are_always_a_batch(
    client: AsyncClient, engine: FakeEngine, inputs: object, texts: list[Any]
) -> None:
    response = await client.post("/embed", json={"inputs": inputs})
    assert response.json() == [[0.5, -0.25]] * len(texts)
    assert engine.asked == [EmbedRequest(text=text, model="org/bert") for text in texts]


async def test_parameters_of_embed_arrive(client: AsyncClient, engine: FakeEngine) -> None:
    body = {
        "inputs": "a",
        "truncate": True,
        "truncation_direction": "left",
        "normalize": False,
        "dimensions": 1,
        "prompt_name": None,
    }
    await client.post("/embed", json=body)
    assert engine.asked == [
        EmbedRequest(
            text="a",
            model="org/bert",
            truncate=True,
            truncation_side=Side.LEFT,
            normalize=False,
            dimensions=1,
        )
    ]


async def test_headers_of_embed(client: AsyncClient) -> None:
    headers = (await client.post("/embed", json={"inputs": ["a b", "c"]})).headers
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "4"
    assert headers["x-compute-tokens"] == "3"
    assert int(headers["x-compute-time"]) < 5000


async def test_prompt_names_are_refused_by_name(client: AsyncClient) -> None:
    response = await client.post("/embed", json={"inputs": "a", "prompt_name": "query"})
    assert response.status_code == 422
    assert response.json() == {
        "error": "`prompt_name` is not supported yet",
        "error_type": "Validation",
    }


async def test_tokens_as_tgi_gives_them(client: AsyncClient) -> None:
    assert (await client.post("/tokenize", json={"inputs": "ab cde", "parameters": {}})).json() == [
        {"id": 1, "text": "<s>", "start": 0, "stop": 0},
        {"id": 2, "text": "ab", "start": 0, "stop": 2},
        {"id": 3, "text": "cde", "start": 3, "stop": 6},
    ]


async def test_tokens_as_tei_gives_them(client: AsyncClient) -> None:
    assert (await client.post("/tokenize", json={"inputs": ["ab", "c"]})).json() == [
        [
            {"id": 1, "text": "<s>", "special": True, "start": None, "stop": None},
            {"id": 2, "text": "ab", "special": False, "start": 0, "stop": 2},
        ],
        [
            {"id": 1, "text": "<s>", "special": True, "start": None, "stop": None},
            {"id": 1, "text": "c", "special": False, "start": 0, "stop": 1},
        ],
    ]
    plain = await client.post("/tokenize", json={"inputs": "ab", "add_special_tokens": False})
    assert plain.json() == [[{"id": 2, "text": "ab", "special": False, "start": 0, "stop": 2}]]


async def test_tokens_as_vllm_gives_them(client: AsyncClient) -> None:
    body: dict[str, Any] = {"prompt": "ab cde", "model": "org/bert"}
    assert (await client.post("/tokenize", json=body)).json() == {
        "count": 3,
        "max_model_len": 32,
        "tokens": [1, 2, 3],
        "token_strs": None,
    }
    body |= {"return_token_strs": True, "add_special_tokens": False}
    assert (await client.post("/tokenize", json=body)).json()["token_strs"] == ["ab", "cde"]


async def test_tokens_of_a_conversation_are_those_of_its_prompt(client: AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "return_token_strs": True}
    answer = (await client.post("/tokenize", json=body)).json()
    assert answer["token_strs"] == ["<user>", "hi", "<assistant>"]
    assert answer["max_model_len"] == 64


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "a", "colour": 1},
        {"inputs": ["a"], "colour": 1},
        {"prompt": "a", "colour": 1},
        {"messages": [], "colour": 1},
    ],
)
async def test_an_unknown_field_of_tokenize_is_named(client: AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post("/tokenize", json=body)
    assert response.status_code == 422
    assert response.json()["error"] == "Input validation error: unknown field `colour`"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fill-mask", {"inputs": "a [MASK]"}),
        ("/embed", {"inputs": "a"}),
        ("/v1/embeddings", {"input": "a"}),
    ],
)
async def test_encoders_are_shared_fairly_between_keys_too(
    client: AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    for key in ("one", "other"):
        await client.post(path, json=body, headers={"authorization": f"Bearer {key}"})
    await client.post(path, json=body)
    one, other, nobody = (asked.terms.tenant for asked in engine.asked)
    assert one != other
    assert nobody == ""
    assert "one" not in one


STANDING = {"priority": 3, "timeout": 2.5}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fill-mask", {"inputs": "a [MASK]", "parameters": STANDING}),
        ("/embed", {"inputs": "a", **STANDING}),
        ("/v1/embeddings", {"input": "a", **STANDING}),
    ],
)
async def test_work_for_encoders_has_priorities_and_deadlines_too(
    client: AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    assert (await client.post(path, json=body)).status_code == 200
    assert (engine.asked[0].terms.priority, engine.asked[0].terms.timeout_s) == (3, 2.5)
    engine.refusal = Overloaded(0.0, "`timeout` passed before the text's turn")
    late = await client.post(path, json=body)
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    assert "`timeout` passed" in late.text

"""Log-probabilities of texts, chats and prompts; and echoes, whose offsets must find their tokens."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient

from server.api.openai.logprobs import LEAST, Scores, TextLogprobs, prompt_logprobs
from server.request import Alternative, Token
from tests.api.openai_wire import HI, asked, events
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def token(text: str, logprob: float | None = -1.0, **fields: Any) -> Token:
    return Token(id=fields.pop("id", len(text)), text=text, logprob=logprob, **fields)


# Text completions.


async def test_the_tokens_of_a_text_are_scored(client: AsyncClient) -> None:
    body = {"prompt": "hi", "logprobs": 2, "max_tokens": 2}
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert choice["text"] == "Hello"
    assert choice["logprobs"] == {
        "tokens": ["Hel", "lo"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"Hel": -0.5, "Hel~": -1.0}, {"lo": -0.5, "lo~": -1.0}],
        "text_offset": [0, 3],
    }


async def test_no_alternatives_still_tell_the_token_itself(client: AsyncClient, engine: FakeEngine) -> None:
    (choice,) = (await client.post("/v1/completions", json={"prompt": "hi", "logprobs": 0})).json()["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"Hel": -0.5}, {"lo": -0.5}, {"!": -0.5}]
    assert asked(engine)[-1].alternatives == 0


async def test_a_stream_scores_the_tokens_of_each_chunk(client: AsyncClient) -> None:
    body = {"prompt": "hi", "logprobs": 1}
    (whole,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    chunks = events(await client.post("/v1/completions", json=body | {"stream": True}))
    pieces = [chunk["choices"][0] for chunk in chunks]
    assert [piece["logprobs"]["tokens"] for piece in pieces] == [["Hel"], ["lo"], ["!"]]
    for key, together in whole["logprobs"].items():
        assert [item for piece in pieces for item in piece["logprobs"][key]] == together


async def test_a_text_can_be_echoed(client: AsyncClient, engine: FakeEngine) -> None:
    body = {"prompt": ["Say  it: ", "b"], "echo": True}
    choices = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert [choice["text"] for choice in choices] == ["Say  it: Hello!", "bHello!"]
    assert asked(engine)[-1].prompt_alternatives is None
    first, *rest = events(await client.post("/v1/completions", json=body | {"prompt": "a", "stream": True}))
    assert first["choices"][0]["text"] == "aHel"
    assert "".join(chunk["choices"][0]["text"] for chunk in rest) == "lo!"


async def test_token_ids_and_a_cut_prompt_are_echoed_as_they_were_read(
    client: AsyncClient, engine: FakeEngine
) -> None:
    for prompt, extra, echo in (([7, 8], {}, "<7><8>"), ("abc", {"truncate_prompt_tokens": 5}, "abc")):
        body = {"prompt": prompt, "echo": True} | extra
        (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
        assert choice["text"] == f"{echo}Hello!"
        assert asked(engine)[-1].prompt_alternatives == 0
        assert choice["logprobs"] is None


async def test_a_prompt_is_scored_as_lm_eval_asks_for_it(client: AsyncClient, engine: FakeEngine) -> None:
    body = {
        "model": "gpt",
        "prompt": [[7, 8, 9]],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert choice["text"] == "<7><8><9>Hel"
    assert choice["logprobs"] == {
        "tokens": ["<7>", "<8>", "<9>", "Hel"],
        "token_logprobs": [None, -1.0, -2.0, -0.5],
        "top_logprobs": [None, {"<8>": -1.0}, {"<9>": -2.0}, {"Hel": -0.5}],
        "text_offset": [0, 3, 6, 9],
    }
    assert (asked(engine)[-1].alternatives, asked(engine)[-1].prompt_alternatives) == (1, 1)


async def test_a_prompt_is_scored_without_a_text(client: AsyncClient, engine: FakeEngine) -> None:
    body = {"prompt": [7, 8], "max_tokens": 0, "echo": True, "logprobs": 0}
    answer = (await client.post("/v1/completions", json=body)).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("<7><8>", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    assert answer["usage"]["completion_tokens"] == 0
    assert asked(engine)[-1].max_new_tokens == 0
    (piece,) = events(await client.post("/v1/completions", json=body | {"stream": True}))
    assert piece["choices"][0] == choice


async def test_an_echo_streams_its_scores_first(client: AsyncClient) -> None:
    body = {"prompt": [7, 8], "echo": True, "logprobs": 0, "stream": True}
    first, second, _ = (
        chunk["choices"][0] for chunk in events(await client.post("/v1/completions", json=body))
    )
    assert (first["text"], first["logprobs"]["tokens"]) == ("<7><8>Hel", ["<7>", "<8>", "Hel"])
    assert (second["text"], second["logprobs"]["text_offset"]) == ("lo", [9])


async def test_prompt_logprobs_as_vllm_tells_them(client: AsyncClient, engine: FakeEngine) -> None:
    body: dict[str, Any] = {"prompt": [7, 8], "prompt_logprobs": 2}
    answer = (await client.post("/v1/completions", json=body)).json()
    expected = [
        None,
        {
            "8": {"logprob": -1.0, "rank": 1, "decoded_token": "<8>"},
            "108": {"logprob": -2.0, "rank": 2, "decoded_token": "<8>~"},
        },
    ]
    assert answer["choices"][0]["prompt_logprobs"] == expected
    await client.post("/v1/completions", json=body | {"echo": True, "logprobs": 5})
    assert asked(engine)[-1].prompt_alternatives == 5
    chat = await client.post("/v1/chat/completions", json={"messages": HI, "prompt_logprobs": 0})
    assert [list(each or ()) for each in chat.json()["prompt_logprobs"]] == [[], ["2"], ["11"]]


# Chats.


async def test_the_tokens_of_a_chat_are_scored(client: AsyncClient, engine: FakeEngine) -> None:
    body = {"messages": HI, "logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    (choice,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "Hel",
                "logprob": -0.5,
                "bytes": [72, 101, 108],
                "top_logprobs": [
                    {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]},
                    {"token": "Hel~", "logprob": -1.0, "bytes": [72, 101, 108, 126]},
                ],
            }
        ],
        "refusal": None,
    }
    assert asked(engine)[-1].alternatives == 2


async def test_a_chat_stream_scores_the_tokens_of_each_chunk(client: AsyncClient) -> None:
    body = {"messages": HI, "logprobs": True}
    (whole,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
    chunks = events(await client.post("/v1/chat/completions", json=body | {"stream": True}))
    pieces = [chunk["choices"][0] for chunk in chunks]
    assert [piece["logprobs"] is None for piece in pieces] == [True, False, False, False, True]
    entries = [entry for piece in pieces if piece["logprobs"] for entry in piece["logprobs"]["content"]]
    assert entries == whole["logprobs"]["content"]


async def test_tokens_can_be_named_by_their_ids(client: AsyncClient) -> None:
    extra = {"return_tokens_as_token_ids": True}
    body = {"prompt": "hi", "logprobs": 1} | extra
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert choice["logprobs"]["tokens"] == ["token_id:10", "token_id:11", "token_id:12"]
    assert choice["logprobs"]["top_logprobs"][0] == {"token_id:10": -0.5}
    body = {"messages": HI, "logprobs": True} | extra
    (choice,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
    assert choice["logprobs"]["content"][0]["token"] == "token_id:10"


@pytest.mark.parametrize(
    ("path", "extra", "message"),
    [
        ("/v1/completions", {"logprobs": 21}, "`logprobs` must be <= 20"),
        ("/v1/completions", {"logprobs": -1}, "`logprobs` must be >= 0"),
        ("/v1/completions", {"logprobs": True}, "`logprobs` must be a valid integer"),
        (
            "/v1/completions",
            {"prompt_logprobs": 1, "stream": True},
            "`prompt_logprobs` does not go with `stream`",
        ),
        ("/v1/chat/completions", {"logprobs": 1}, "`logprobs` must be a valid boolean"),
        ("/v1/chat/completions", {"top_logprobs": 2}, "`top_logprobs` needs `logprobs` to be true"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "`top_logprobs` must be <= 20"),
        ("/v1/chat/completions", {"max_tokens": 0}, "`max_tokens` 0 needs `prompt_logprobs`"),
    ],
)
async def test_a_bad_wish_for_scores_is_named(
    client: AsyncClient, path: str, extra: dict[str, Any], message: str
) -> None:
    body: dict[str, Any] = {"messages": HI} if "chat" in path else {"prompt": "a"}
    response = await client.post(path, json=body | extra)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == message


# What real tokenizers do, which the fake engine does not.


def test_offsets_find_their_tokens_in_the_text() -> None:
    lists = TextLogprobs(scores=Scores(alternatives=0))
    prompt = [token("<s>", None, special=True), token("Hello"), token(" w"), token("örld")]
    echoed = lists.prompt(prompt, "Hello wörld")
    generated = lists.generated([token(""), token("é"), token("</s>", special=True)])
    assert echoed["text_offset"] == [0, 0, 5, 7]
    assert generated["text_offset"] == [11, 11, 12]


def test_a_special_token_in_the_prompts_own_text_is_found_there() -> None:
    lists = TextLogprobs(scores=Scores(alternatives=0))
    turn = [token("<|im_start|>", None, special=True), token("user"), token("\n")]
    assert lists.prompt(turn, "<|im_start|>user\n")["text_offset"] == [0, 12, 16]


def test_a_token_that_is_not_among_the_best_is_told_beside_them() -> None:
    best = (Alternative(id=1, text="a", logprob=-0.1), Alternative(id=2, text="b", logprob=-3.0))
    rare = token("z", -9.0, id=26, alternatives=best)
    assert Scores(alternatives=1).most_probable(rare) == {"a": -0.1, "z": -9.0}
    assert prompt_logprobs([rare], 1) == [
        {
            "1": {"logprob": -0.1, "rank": 1, "decoded_token": "a"},
            "26": {"logprob": -9.0, "rank": None, "decoded_token": "z"},
        }
    ]


def test_of_two_tokens_spelled_alike_the_more_probable_keeps_the_name() -> None:
    half = Alternative(id=1, text="\ufffd", logprob=-0.1)
    other = token("\ufffd", -4.0, id=2, alternatives=(half,))
    assert Scores(alternatives=1).most_probable(other) == {"\ufffd": -0.1}
    assert Scores(alternatives=1, as_ids=True).most_probable(other) == {
        "token_id:1": -0.1,
        "token_id:2": -4.0,
    }


def test_special_tokens_are_no_content_of_a_chat_and_pieces_of_characters_have_no_bytes() -> None:
    half = Alternative(id=1, text="\ufffd", logprob=-0.1)
    tokens = [token("é", alternatives=(half,)), token("</s>", special=True)]
    (entry,) = Scores(alternatives=1).chat(tokens)["content"]
    assert entry["bytes"] == [0xC3, 0xA9]
    assert entry["top_logprobs"][0]["bytes"] is None


def test_an_impossible_token_has_a_number_that_json_can_spell() -> None:
    impossible = token("x", float("-inf"))
    assert Scores(alternatives=0).most_probable(impossible) == {"x": LEAST}

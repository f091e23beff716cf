"""Several texts for one prompt: numbered, ranked, streamed, counted, and each with its own numbers."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient

from server.api.limits import Limits
from server.request import Terms
from tests.api.conftest import Served
from tests.api.openai_wire import HI, asked, events
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def spread() -> FakeEngine:
    """Three samples, of which the second is the most probable."""
    return FakeEngine(others=(("B",), ("C", "C")), logprobs=(-3.0, -1.0, -2.0))


async def test_n_texts_are_choices_prompt_by_prompt(served: Served) -> None:
    engine = FakeEngine(others=(("B",),), cached_tokens=1)
    async with served(engine) as client:
        body = {"prompt": ["a", "b b"], "n": 2, "seed": 5}
        answer = (await client.post("/v1/completions", json=body)).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "Hello!"),
        (1, "B"),
        (2, "Hello!"),
        (3, "B"),
    ]
    assert [(request.prompt, request.sampling.sample) for request in asked(engine)] == [
        ("a", 0),
        ("a", 1),
        ("b b", 0),
        ("b b", 1),
    ]
    assert {request.sampling.seed for request in asked(engine)} == {5}


async def test_a_prompt_counts_once_however_often_it_is_sampled(served: Served) -> None:
    async with served(FakeEngine(others=(("B",),), cached_tokens=1)) as client:
        answer = (await client.post("/v1/completions", json={"prompt": ["a", "b b"], "n": 2})).json()
        chat = (await client.post("/v1/chat/completions", json={"messages": HI, "n": 2})).json()
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 8,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert (chat["usage"]["prompt_tokens"], chat["usage"]["completion_tokens"]) == (3, 4)


async def test_without_a_seed_all_samples_share_the_one_that_is_told(
    client: AsyncClient, engine: FakeEngine
) -> None:
    response = await client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 2})
    assert {str(request.sampling.seed) for request in asked(engine)} == {response.headers["x-seed"]}


async def test_best_of_sends_the_most_probable_first(served: Served) -> None:
    async with served(spread()) as client:
        body = {"prompt": "a", "n": 2, "best_of": 3}
        answer = (await client.post("/v1/completions", json=body)).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "B"), (1, "CC")]
    assert answer["usage"]["completion_tokens"] == 6


async def test_best_of_all_keeps_their_order(served: Served) -> None:
    async with served(spread()) as client:
        body = {"prompt": "a", "n": 3, "best_of": 3}
        answer = (await client.post("/v1/completions", json=body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["Hello!", "B", "CC"]


async def test_n_texts_stream_side_by_side(served: Served) -> None:
    engine = FakeEngine(others=(("B", "!"),))
    async with served(engine) as client:
        body = {"prompt": ["a", "b"], "n": 2, "stream": True}
        chunks = events(await client.post("/v1/completions", json=body))
    texts = dict[int, str]()
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "Hello!", 1: "B!", 2: "Hello!", 3: "B!"}
    assert engine.running == 0


async def test_n_answers_of_a_chat(served: Served) -> None:
    async with served(FakeEngine(others=(("B",),))) as client:
        answer = (await client.post("/v1/chat/completions", json={"messages": HI, "n": 2})).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello!", "B"]


async def test_n_answers_of_a_chat_stream_each_with_its_role(served: Served) -> None:
    async with served(FakeEngine(others=(("B",),))) as client:
        body = {"messages": HI, "n": 2, "stream": True}
        chunks = events(await client.post("/v1/chat/completions", json=body))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == 1]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "B"}, {}]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"best_of": 1, "n": 2}, "`best_of` must be at least `n`, 2. Given: 1"),
        ({"best_of": 2, "stream": True}, "`best_of` above `n` does not go with `stream`"),
        ({"n": 0}, "`n` must be strictly positive"),
        ({"n": 129}, "`n` must be <= 128"),
        ({"n": True}, "`n` must be a valid integer"),
        ({"best_of": 129}, "`best_of` must be <= 128"),
        ({"max_tokens": 0}, "`max_tokens` 0 needs `echo` or `prompt_logprobs`"),
    ],
)
async def test_a_bad_number_of_texts_is_named(
    client: AsyncClient, engine: FakeEngine, extra: dict[str, Any], message: str
) -> None:
    response = await client.post("/v1/completions", json={"prompt": "a"} | extra)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == message
    assert not engine.asked


async def test_samples_that_are_not_sent_cost_too(served: Served, engine: FakeEngine) -> None:
    async with served(engine, limits=Limits(max_cost=100)) as client:
        for path, body in (
            ("/v1/completions", {"prompt": "a", "best_of": 3}),
            ("/v1/chat/completions", {"messages": HI, "n": 3}),
        ):
            response = await client.post(path, json=body | {"max_tokens": 50})
            assert response.status_code == 400
            assert "must be <= 100. Given: 150" in response.json()["error"]["message"]
    assert not engine.asked


@pytest.mark.parametrize(
    ("path", "scored"),
    [
        ("/v1/completions", {"prompt": "a " * 20, "echo": True, "logprobs": 0}),
        ("/v1/completions", {"prompt": [1] * 40, "prompt_logprobs": 0}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a " * 20}], "prompt_logprobs": 0},
        ),
    ],
)
async def test_a_prompt_that_is_scored_for_each_sample_costs_each_time_but_the_first(
    served: Served, engine: FakeEngine, path: str, scored: dict[str, Any]
) -> None:
    async with served(engine, limits=Limits(max_cost=100)) as client:
        one = await client.post(path, json=scored | {"max_tokens": 1})
        three = await client.post(path, json=scored | {"max_tokens": 30, "n": 3})
        many = await client.post(path, json=scored | {"max_tokens": 1, "n": 4})
    assert one.status_code == 200, one.text
    assert three.status_code == many.status_code == 400
    assert many.json()["error"]["message"].endswith(", and the prompt is scored for each sample")
    assert len(engine.asked) == 1


async def test_prompts_times_samples_are_bounded(served: Served, engine: FakeEngine) -> None:
    async with served(engine, limits=Limits(max_inputs=5)) as client:
        prompts = await client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 3})
        best = await client.post("/v1/completions", json={"prompt": "a", "best_of": 6})
        chat = await client.post("/v1/chat/completions", json={"messages": HI, "n": 6})
        tgi = await client.post(
            "/generate", json={"inputs": "a", "parameters": {"best_of": 6, "do_sample": True}}
        )
        assert (await client.get("/info")).json()["max_best_of"] == 5
    assert prompts.json()["error"]["message"] == "prompts x samples must be <= 5. Given: 2 x 3"
    assert [each.status_code for each in (prompts, best, chat, tgi)] == [400, 400, 400, 422]
    assert [each.json()["error"]["param"] for each in (prompts, best, chat)] == ["n", "best_of", "n"]
    assert "prompts x samples must be <= 5. Given: 1 x 6" in tgi.json()["error"]
    assert not engine.asked


async def test_a_deadline_ends_the_text_and_says_so(served: Served) -> None:
    engine = FakeEngine(expires_at=2)
    async with served(engine) as client:
        whole = (await client.post("/v1/completions", json={"prompt": "a", "timeout": 0.5})).json()
        body = {"messages": HI, "timeout": 0.5, "stream": True}
        chunks = events(await client.post("/v1/chat/completions", json=body))
    assert whole["choices"][0]["text"] == "Hello"
    assert whole["choices"][0]["finish_reason"] == "timeout"
    assert chunks[-1]["choices"][0]["finish_reason"] == "timeout"


async def test_how_a_request_stands_beside_others(client: AsyncClient, engine: FakeEngine) -> None:
    extra = {"priority": 3, "timeout": 60, "cache_salt": "mine"}
    headers = {"authorization": "Bearer secret"}
    await client.post("/v1/completions", json={"prompt": "a"} | extra, headers=headers)
    await client.post("/v1/chat/completions", json={"messages": HI} | extra, headers=headers)
    first, second = (request.terms for request in asked(engine))
    assert first == second == Terms(tenant=first.tenant, priority=3, timeout_s=60, cache_salt="mine")
    assert first.tenant
    assert "secret" not in first.tenant


async def test_a_stream_counts_as_it_goes(served: Served) -> None:
    async with served(FakeEngine(cached_tokens=1)) as client:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = {"messages": HI, "stream": True, "stream_options": options}
        *chunks, last = events(await client.post("/v1/chat/completions", json=body))
    counts = [(chunk["usage"]["prompt_tokens"], chunk["usage"]["completion_tokens"]) for chunk in chunks]
    assert counts == [(3, 1), (3, 1), (3, 2), (3, 3), (3, 3)]
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


async def test_token_ids_are_counted_as_given_and_as_cut(client: AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": [[1, 2, 3], [4]], "stream": True, "stream_options": options}
    for extra, count in (({}, 4), ({"truncate_prompt_tokens": 2}, 3)):
        first = events(await client.post("/v1/completions", json=body | extra))[0]
        assert first["usage"]["prompt_tokens"] == count


async def test_counting_as_it_goes_needs_usage(client: AsyncClient) -> None:
    body = {"prompt": "a", "stream": True, "stream_options": {"continuous_usage_stats": True}}
    response = await client.post("/v1/completions", json=body)
    assert response.json()["error"]["message"] == "`continuous_usage_stats` needs `include_usage` to be true"


async def test_every_choice_has_a_receipt_of_its_own(served: Served) -> None:
    async with served(FakeEngine(others=(("B",),))) as client:
        body = {"prompt": "a", "n": 2, "seed": 5, "receipt": True}
        whole = (await client.post("/v1/completions", json=body)).json()
        streamed = events(await client.post("/v1/completions", json=body | {"stream": True}))
        chat = (await client.post("/v1/chat/completions", json={"messages": HI, "receipt": True})).json()
    receipts = [choice["receipt"] for choice in whole["choices"]]
    assert [receipt["text"] for receipt in receipts] == ["Hello!", "B"]
    assert [receipt["parameters"]["sampling"]["sample"] for receipt in receipts] == [0, 1]
    finished = [chunk["choices"][0] for chunk in streamed if chunk["choices"][0]["finish_reason"]]
    assert {choice["index"]: choice["receipt"] for choice in finished} == dict(enumerate(receipts))
    assert chat["choices"][0]["receipt"]["finish_reason"] == "eos"


async def test_the_ids_of_prompt_and_text(client: AsyncClient) -> None:
    body: dict[str, Any] = {"prompt": [7, 8], "return_token_ids": True}
    (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([7, 8], [10, 11, 12])
    chunks = events(await client.post("/v1/completions", json=body | {"stream": True}))
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[10], [11], [12]]
    assert chunks[-1]["choices"][0]["prompt_token_ids"] == [7, 8]
    body = {"messages": HI, "return_token_ids": True}
    chat = (await client.post("/v1/chat/completions", json=body)).json()
    assert chat["prompt_token_ids"] == [6, 2, 11]
    assert chat["choices"][0]["token_ids"] == [10, 11, 12]
    chunks = events(await client.post("/v1/chat/completions", json=body | {"stream": True}))
    assert chunks[-1]["prompt_token_ids"] == [6, 2, 11]
    ids = [id_ for chunk in chunks for id_ in chunk["choices"][0].get("token_ids", [])]
    assert ids == [10, 11, 12]

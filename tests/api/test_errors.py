"""Every way to be refused: the status, the body of the dialect, and the name of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient

from server.api.limits import Limits
from server.errors import EngineFailed, NotReady, Overloaded
from tests.api.conftest import Served
from tests.fakes import DECODER, ENCODER, FakeEngine

pytestmark = pytest.mark.anyio

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES: dict[str, dict[str, Any]] = {
    "/generate": {"inputs": "hi"},
    "/generate_stream": {"inputs": "hi"},
    "/fill-mask": {"inputs": "a [MASK]"},
    "/embed": {"inputs": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": CHAT,
    "/v1/embeddings": {"input": "hi"},
}
JSON = {"content-type": "application/json"}


def sentence(body: dict[str, Any]) -> str:
    """The message, whichever dialect the body is in."""
    error = body["error"]
    message = error["message"] if isinstance(error, dict) else error
    assert isinstance(message, str)
    return message


@pytest.mark.parametrize("path", ROUTES)
async def test_an_unknown_field_is_named(client: AsyncClient, path: str) -> None:
    response = await client.post(path, json=ROUTES[path] | {"temprature": 0})
    assert response.status_code == (400 if path.startswith("/v1/") else 422)
    assert "unknown field `temprature`" in sentence(response.json())


async def test_an_unknown_parameter_is_named_with_its_path(client: AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "parameters": {"temprature": 0}})
    assert response.json() == {
        "error": "Input validation error: unknown field `parameters.temprature`",
        "error_type": "validation",
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0}, "`parameters.temperature` must be strictly positive"),
        ({"temperature": -1}, "`parameters.temperature` must be strictly positive"),
        ({"temperature": 1e9}, "`parameters.temperature` must be <= 100"),
        ({"repetition_penalty": 0}, "`parameters.repetition_penalty` must be strictly positive"),
        ({"top_p": 0}, "`parameters.top_p` must be strictly positive"),
        ({"top_p": 1.5}, "`parameters.top_p` must be <= 1"),
        ({"top_k": 0}, "`parameters.top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive, or 0 with"),
        ({"max_new_tokens": -1}, "`parameters.max_new_tokens` must be >= 0"),
        ({"max_new_tokens": True}, "`parameters.max_new_tokens` must be a valid integer"),
        ({"max_new_tokens": 1.0}, "`parameters.max_new_tokens` must be a valid integer"),
        ({"max_new_tokens": "5"}, "`parameters.max_new_tokens` must be a valid integer"),
        ({"max_new_tokens": 10**400}, "`parameters.max_new_tokens` must be <= 2147483647"),
        ({"temperature": True}, "`parameters.temperature` must be a valid number"),
        ({"seed": -1}, "`parameters.seed` must be >= 0"),
        ({"seed": 2**64}, "`parameters.seed` must be <= 18446744073709551615"),
        ({"stop": [""]}, "`parameters.stop.0` cannot be empty"),
        ({"stop": ["x"] * 17}, "`stop` supports up to 16 stop sequences. Given: 17"),
        ({"stop": ["x" * 1025]}, "a stop sequence has at most 1024 characters. Given: 1025"),
        ({"truncate": 64}, "`truncate` must be strictly positive and less than 64. Given: 64"),
        (
            {"max_new_tokens": 80},
            "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 1 `inputs` tokens and 80",
        ),
        ({"n_predict": 1, "max_new_tokens": 1}, "`parameters.n_predict` is another name"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 0}, "`parameters.best_of` must be strictly positive"),
        ({"best_of": 129}, "`parameters.best_of` must be <= 128"),
        ({"frequency_penalty": 2.5}, "`parameters.frequency_penalty` must be <= 2"),
        ({"frequency_penalty": -2.5}, "`parameters.frequency_penalty` must be >= -2"),
        ({"typical_p": 0}, "`parameters.typical_p` must be strictly positive"),
        ({"typ_p": 1.5}, "`parameters.typ_p` must be <= 1"),
        ({"top_n_tokens": 21}, "`parameters.top_n_tokens` must be <= 20"),
        ({"watermark": True}, "`parameters.watermark` is not supported yet"),
        ({"adapter_id": 5}, "`parameters.adapter_id` "),
    ],
)
async def test_a_bad_parameter_of_tgi_is_named(
    client: AsyncClient, parameters: dict[str, Any], message: str
) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert response.status_code == 422
    assert response.json()["error"].startswith(f"Input validation error: {message}")
    assert response.json()["error_type"] == "validation"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("parameter", "value"),
    [("skip_special_tokens", False)],
)
async def test_what_is_not_built_yet_is_refused_by_name(
    client: AsyncClient, path: str, parameter: str, value: object
) -> None:
    response = await client.post(path, json=ROUTES[path] | {parameter: value})
    assert response.json() == {
        "error": {
            "message": f"`{parameter}` is not supported yet",
            "type": "BadRequestError",
            "param": parameter,
            "code": 400,
        }
    }


@pytest.mark.parametrize(
    ("path", "extra", "name"),
    [
        ("/v1/completions", {"suffix": "x"}, "suffix"),
        ("/v1/chat/completions", {"echo": True}, "echo"),
        ("/v1/chat/completions", {"best_of": 2}, "best_of"),
        ("/v1/chat/completions", {"store": True}, "store"),
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools"),
        ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/chat/completions", {"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
    ],
)
async def test_what_one_openai_route_lacks(
    client: AsyncClient, path: str, extra: dict[str, Any], name: str
) -> None:
    response = await client.post(path, json=ROUTES[path] | extra)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == f"`{name}` is not supported yet"


async def test_a_template_from_the_request_is_refused(client: AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=CHAT | {"chat_template": "{{ 1 }}"})
    assert response.status_code == 400
    assert "`chat_template`" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "required"),
        (b"{", "JSON"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b"null", ""),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
        (b'{"inputs": ' + b"9" * 5000 + b"}", ""),
    ],
)
async def test_a_body_that_is_no_object_is_a_client_error(
    client: AsyncClient, path: str, content: bytes, hint: str
) -> None:
    response = await client.post(path, content=content, headers=JSON)
    assert response.status_code in (400, 422)
    assert hint in sentence(response.json())


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_no_parameter_is_infinite_or_not_a_number(client: AsyncClient, constant: str) -> None:
    content = f'{{"inputs": "hi", "parameters": {{"temperature": {constant}}}}}'
    response = await client.post("/generate", content=content, headers=JSON)
    assert response.status_code == 422
    assert "`parameters.temperature` must be a finite number" in response.json()["error"]


async def test_half_a_surrogate_pair_is_refused(client: AsyncClient) -> None:
    response = await client.post("/generate", content=r'{"inputs": "\ud800"}', headers=JSON)
    assert response.status_code == 422
    assert "surrogate" in response.json()["error"]


async def test_half_a_surrogate_pair_in_a_name_is_refused(client: AsyncClient) -> None:
    response = await client.post("/generate", content=r'{"inputs": "x", "\ud800": 1}', headers=JSON)
    assert response.status_code == 422


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_that_is_not_declared_json_says_what_to_send(client: AsyncClient, path: str) -> None:
    content = b'{"inputs": "hi"}'
    response = await client.post(path, content=content, headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert "application/json" in sentence(response.json())


async def test_the_input_is_never_echoed_and_the_message_stays_short(client: AsyncClient) -> None:
    body: dict[str, Any] = {"inputs": {"secret": "hunter2"}} | {f"x{i}": "hunter2" for i in range(5000)}
    response = await client.post("/generate", json=body)
    assert "hunter2" not in response.text
    assert len(response.content) < 500
    assert "more" in response.json()["error"]


async def test_a_field_name_is_cut_and_cleaned(client: AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "a\n`b" * 1000: 1})
    assert len(response.content) < 500
    assert "a?" in response.json()["error"]
    assert "\n" not in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/generate", {"inputs": ""}, 422, "Input validation error: `inputs` cannot be empty"),
        ("/fill-mask", {"inputs": ""}, 422, "Input validation error: `inputs` cannot be empty"),
        ("/fill-mask", {"inputs": []}, 422, "Input validation error: `inputs` cannot be empty"),
        ("/fill-mask", {"inputs": ["a [MASK]", ""]}, 422, "Input validation error: `inputs` cannot be empty"),
        ("/tokenize", {"inputs": ""}, 422, "Input validation error: `inputs` cannot be empty"),
        ("/embed", {"inputs": ""}, 400, "`inputs` cannot be empty"),
        ("/embed", {"inputs": []}, 400, "`inputs` cannot be empty"),
        ("/embed", {"inputs": [[]]}, 400, "`inputs` cannot be empty"),
    ],
)
async def test_nothing_to_work_on(
    client: AsyncClient, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == status
    assert response.json()["error"] == error


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/completions", {"prompt": ""}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/embeddings", {"input": ["a", ""]}, "input"),
    ],
)
async def test_nothing_to_work_on_in_openais_names(
    client: AsyncClient, path: str, body: dict[str, Any], name: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == f"`{name}` cannot be empty"
    assert response.json()["error"]["param"] == name


async def test_too_long_a_prompt_in_openais_words(client: AsyncClient) -> None:
    response = await client.post("/v1/completions", json={"prompt": "a b c", "max_tokens": 62})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["message"] == (
        "This model's maximum context length is 64 tokens. However, you requested 65 tokens "
        "(3 in the prompt, 62 in the completion)."
    )
    assert error["param"] == "prompt"


@pytest.mark.parametrize("path", ROUTES)
async def test_an_unknown_model_is_404_and_the_loaded_ones_are_listed(client: AsyncClient, path: str) -> None:
    response = await client.post(path, json=ROUTES[path] | {"model": "../../etc/passwd"})
    assert response.status_code == 404
    assert "gpt, org/bert" in sentence(response.json())
    assert "passwd" not in response.text


async def test_a_model_that_cannot_do_the_task_is_refused(client: AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "model": "org/bert"})
    assert response.status_code == 422
    assert "cannot do generate" in response.json()["error"]


async def test_a_task_that_no_loaded_model_can_do_is_404(served: Served) -> None:
    async with served(FakeEngine(cards=(DECODER,))) as client:
        response = await client.post("/fill-mask", json={"inputs": "a [MASK]"})
        assert response.status_code == 404
        assert response.json() == {
            "error": "no loaded model can do fill-mask; loaded: gpt",
            "error_type": "not_found",
        }
    async with served(FakeEngine(cards=(ENCODER,))) as client:
        response = await client.post("/v1/completions", json={"prompt": "hi"})
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "NotFoundError"


async def test_a_text_without_a_mask_names_the_mask(client: AsyncClient) -> None:
    response = await client.post("/fill-mask", json={"inputs": "no mask here"})
    assert response.status_code == 422
    assert "[MASK]" in response.json()["error"]


EXPECTED = {
    "overloaded": {
        "/generate": (429, {"error": "Model is overloaded", "error_type": "overloaded"}),
        "/embed": (429, {"error": "Model is overloaded", "error_type": "Overloaded"}),
        "/v1/completions": (
            429,
            {
                "error": {
                    "message": "Model is overloaded",
                    "type": "RateLimitError",
                    "param": None,
                    "code": 429,
                }
            },
        ),
    },
    "loading": {
        "/generate": (503, {"error": "loading", "error_type": "healthcheck"}),
        "/embed": (503, {"error": "loading", "error_type": "Unhealthy"}),
        "/v1/completions": (
            503,
            {"error": {"message": "loading", "type": "ServiceUnavailableError", "param": None, "code": 503}},
        ),
    },
    "broken": {
        "/generate": (424, {"error": "Request failed during generation: gone", "error_type": "generation"}),
        "/embed": (424, {"error": "gone", "error_type": "Backend"}),
        "/v1/completions": (
            500,
            {"error": {"message": "gone", "type": "InternalServerError", "param": None, "code": 500}},
        ),
    },
    "bug": {
        "/generate": (500, {"error": "Internal error", "error_type": "internal"}),
        "/embed": (500, {"error": "Internal error", "error_type": "Internal"}),
        "/v1/completions": (
            500,
            {
                "error": {
                    "message": "Internal error",
                    "type": "InternalServerError",
                    "param": None,
                    "code": 500,
                }
            },
        ),
    },
}
REFUSALS = {
    "overloaded": Overloaded(1.2345),
    "loading": NotReady("loading"),
    "broken": EngineFailed("gone"),
    "bug": KeyError("a secret of ours"),
}


@pytest.mark.parametrize("path", ["/generate", "/embed", "/v1/completions"])
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_has_a_status_even_for_a_stream(
    served: Served, path: str, refusal: str, stream: bool
) -> None:
    body = ROUTES[path] | ({"stream": True} if stream and path != "/embed" else {})
    async with served(FakeEngine(refusal=REFUSALS[refusal])) as client:
        response = await client.post(path, json=body)
    assert (response.status_code, response.json()) == EXPECTED[refusal][path]


async def test_an_overloaded_server_says_when_to_come_back(served: Served) -> None:
    async with served(FakeEngine(refusal=Overloaded(1.2345))) as client:
        response = await client.post("/generate", json={"inputs": "hi"})
    assert response.headers["retry-after"] == "2"
    assert response.headers["retry-after-ms"] == "1235"


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_above_the_limit_is_413(served: Served, path: str) -> None:
    async with served(FakeEngine(), limits=Limits(max_body_bytes=100)) as client:
        response = await client.post(path, content=b" " * 101, headers=JSON)
        assert response.status_code == 413
        assert sentence(response.json()) == "the body must have at most 100 bytes"
        assert response.headers["connection"] == "close"


async def test_a_body_of_undeclared_length_is_counted(served: Served) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 10
            yield b" " * 10

    async with served(FakeEngine(), limits=Limits(max_body_bytes=100)) as client:
        response = await client.post("/generate", content=endless(), headers=JSON)
    assert response.status_code == 413
    assert sent <= 120


async def test_a_body_that_is_declared_too_large_is_not_even_read(served: Served) -> None:
    read = False

    async def body() -> Any:
        nonlocal read
        read = True
        yield b"{}"

    async with served(FakeEngine(), limits=Limits(max_body_bytes=100)) as client:
        response = await client.post("/generate", content=body(), headers=JSON | {"content-length": "101"})
    assert response.status_code == 413
    assert not read


async def test_a_body_at_the_limit_is_served(served: Served) -> None:
    content = b'{"inputs": "hi"}'
    async with served(FakeEngine(), limits=Limits(max_body_bytes=len(content))) as client:
        response = await client.post("/generate", content=content, headers=JSON)
    assert response.status_code == 200


async def test_too_many_inputs_are_refused(served: Served) -> None:
    async with served(FakeEngine(), limits=Limits(max_inputs=2)) as client:
        for path, body in (
            ("/embed", {"inputs": ["x"] * 3}),
            ("/fill-mask", {"inputs": ["[MASK]"] * 3}),
            ("/tokenize", {"inputs": ["x"] * 3}),
            ("/v1/embeddings", {"input": ["x"] * 3}),
            ("/v1/completions", {"prompt": ["x"] * 3}),
        ):
            response = await client.post(path, json=body)
            assert response.status_code in (400, 422)
            assert "supports up to 2 inputs. Given: 3" in sentence(response.json())


async def test_too_many_or_too_long_targets_are_refused(served: Served) -> None:
    async with served(FakeEngine(), limits=Limits(max_targets=2)) as client:
        body = {"inputs": "[MASK]", "parameters": {"targets": ["a", "b", "c"]}}
        assert "`targets` supports up to 2" in (await client.post("/fill-mask", json=body)).text
        body = {"inputs": "[MASK]", "parameters": {"targets": ["a" * 257]}}
        assert "at most 256 characters" in (await client.post("/fill-mask", json=body)).text


async def test_prompts_times_tokens_are_bounded(served: Served, engine: FakeEngine) -> None:
    async with served(engine, limits=Limits(max_cost=100)) as client:
        response = await client.post("/v1/completions", json={"prompt": ["x"] * 3, "max_tokens": 50})
    assert response.status_code == 400
    assert "must be <= 100. Given: 150" in response.json()["error"]["message"]
    assert not engine.asked


async def test_an_unknown_route_is_404_in_json(client: AsyncClient) -> None:
    response = await client.get("/nothing/here")
    assert response.status_code == 404
    assert response.json()["error_type"] == "not_found"
    response = await client.post("/v1/nothing", json={})
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "NotFoundError"


async def test_a_wrong_method_is_405_in_json(client: AsyncClient) -> None:
    response = await client.get("/generate")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error_type"] == "method_not_allowed"
    assert (await client.put("/v1/models")).json()["error"]["code"] == 405


async def test_stream_options_need_a_stream(client: AsyncClient) -> None:
    response = await client.post(
        "/v1/chat/completions", json=CHAT | {"stream_options": {"include_usage": True}}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stream_options"


async def test_continuing_and_prompting_exclude_each_other(client: AsyncClient) -> None:
    extra = {"continue_final_message": True, "add_generation_prompt": True}
    response = await client.post("/v1/chat/completions", json=CHAT | extra)
    assert response.status_code == 400
    assert "exclude each other" in response.json()["error"]["message"]

"""Small servers of other people's APIs, with delays that a test knows. Served over a real socket."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

Body = dict[str, Any]


@dataclass(kw_only=True)
class Server:
    """What a fake knows of itself and was asked.

    first_s, gap_s: before the first event, and between two.
    knows: which of the fields that may be left out it takes; others are refused in `refusal`'s words.
    usage: whether it counts tokens.
    breaks_at: number of the event in place of which the connection breaks off; None: never.
    """

    first_s: float = 0.0
    gap_s: float = 0.0
    knows: frozenset[str] = frozenset({"ignore_eos", "min_tokens", "stream_options"})
    refusal: str = "Unexpected keys in the request: {names}"
    usage: bool = True
    breaks_at: int | None = None
    asked: list[Body] = field(default_factory=list)

    def take(self, body: Body) -> JSONResponse | None:
        """Remember `body`. A refusal, where it has fields that this server does not know."""
        self.asked.append(body)
        unknown = {"ignore_eos", "min_tokens", "stream_options"} & body.keys() - self.knows
        if not unknown:
            return None
        message = self.refusal.format(names=sorted(unknown))
        return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, 422)

    async def pace(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            if number == self.breaks_at:
                raise ConnectionError("broken by the test")
            await asyncio.sleep(self.gap_s if number else self.first_s)
            yield number


def openai_server(
    server: Server, *, models: tuple[str, ...] = ("org/model",), chat_only: bool = False
) -> FastAPI:
    """Speaks as vLLM does: each event a token, usage in an event of its own where it is asked for."""
    app = FastAPI()

    @app.get("/v1/models")
    async def list_models() -> Body:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}

    async def answer(body: Body, choice: Any) -> Any:
        if not ("prompt" in body or "messages" in body):
            return JSONResponse({"error": {"message": "nothing to complete"}}, 400)
        return server.take(body) or _events(_openai_events(server, body, choice))

    if not chat_only:

        @app.post("/v1/completions")
        async def complete(body: Body) -> Any:
            return await answer(body, lambda text: {"text": text})

    @app.post("/v1/chat/completions")
    async def chat(body: Body) -> Any:
        return await answer(body, lambda text: {"delta": {"content": text}})

    return app


async def _openai_events(server: Server, body: Body, choice: Any) -> AsyncIterator[str]:
    usage = None
    yield json.dumps({"choices": [{"index": 0, **choice(""), "finish_reason": None}], "usage": None})
    async for number in server.pace(body["max_tokens"]):
        last = number == body["max_tokens"] - 1
        piece = {"index": 0, **choice(f'"text": "{number}'), "finish_reason": "length" if last else None}
        yield json.dumps({"choices": [piece], "usage": usage}, separators=(",", ":"))
    if server.usage and body.get("stream_options", {}).get("include_usage"):
        usage = {"prompt_tokens": 7, "completion_tokens": body["max_tokens"]}
        yield json.dumps({"choices": [], "usage": usage})
    yield "[DONE]"


def tgi_server(server: Server) -> FastAPI:
    """Speaks as text-generation-inference does, which ignores fields that it does not know."""
    app = FastAPI()

    @app.get("/info")
    async def info() -> Body:
        return {"router": "text-generation-router", "model_id": "org/model", "max_total_tokens": 4096}

    @app.post("/generate_stream")
    async def stream(body: Body) -> StreamingResponse:
        server.asked.append(body)
        return _events(_tgi_events(server, body["parameters"]["max_new_tokens"]))

    @app.post("/generate")
    async def generate(body: Body) -> JSONResponse:
        server.asked.append(body)
        count = body["parameters"]["max_new_tokens"]
        async for _ in server.pace(count):
            pass
        details = {"finish_reason": "length", "generated_tokens": count}
        answer = {"generated_text": "x" * count, "details": details if server.usage else None}
        return JSONResponse(answer, headers={"x-prompt-tokens": "5"})

    return app


async def _tgi_events(server: Server, count: int) -> AsyncIterator[str]:
    async for number in server.pace(count):
        token = {"id": number, "text": '{"token": {', "logprob": -0.5, "special": False}
        last = number == count - 1
        details = {"finish_reason": "length", "generated_tokens": count, "input_length": 5}
        yield json.dumps(
            {
                "index": number + 1,
                "token": token,
                "generated_text": "all" if last else None,
                "details": details if last and server.usage else None,
            }
        )


def tei_server(server: Server, *, kind: str = "embedding") -> FastAPI:
    """Speaks as text-embeddings-inference does; `kind` is of the model."""
    app = FastAPI()

    @app.get("/info")
    async def info() -> Body:
        return {"model_id": "org/model", "model_type": {kind: {}}, "max_client_batch_size": 32}

    @app.post("/embed")
    async def embed(body: Body) -> JSONResponse:
        server.asked.append(body)
        await asyncio.sleep(server.first_s)
        vectors = [[0.5, -0.25, 1e-3] for _ in body["inputs"]]
        return JSONResponse(vectors, headers={"x-compute-tokens": str(4 * len(vectors))})

    @app.post("/rerank")
    async def rerank(body: Body) -> JSONResponse:
        server.asked.append(body)
        await asyncio.sleep(server.first_s)
        return JSONResponse([{"index": number, "score": 0.5} for number in range(len(body["texts"]))])

    @app.post("/v1/embeddings")
    async def embeddings(body: Body) -> Body:
        server.asked.append(body)
        vectors = [{"object": "embedding", "index": n, "embedding": [0.5]} for n in range(len(body["input"]))]
        return {"object": "list", "data": vectors, "usage": {"prompt_tokens": 4 * len(vectors)}}

    return app


def dying_app() -> FastAPI:
    """An OpenAI server whose process ends in the middle of its third answer."""
    server = Server(gap_s=0.002)
    app = openai_server(server)

    @app.middleware("http")
    async def die(request: Request, proceed: Any) -> Any:
        response = await proceed(request)
        if len(server.asked) == 3:
            asyncio.get_running_loop().call_later(0.02, os._exit, 1)
        return response

    return app


def _events(events: AsyncIterator[str]) -> StreamingResponse:
    async def bodies() -> AsyncIterator[bytes]:
        with suppress(ConnectionError):
            async for event in events:
                yield f"data: {event}\n\n".encode()

    return StreamingResponse(bodies(), media_type="text/event-stream")


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]

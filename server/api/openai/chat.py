"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.connection import unless_gone
from server.api.edge import Edge, EdgeOf, json_response, stream_example
from server.api.openai.replies import Reply, failure_at, usage
from server.api.openai.schemas import FINISH, ChatBody
from server.api.sse import DONE, EventStream
from server.request import Finish, GenerateRequest, ModelCard, Task

PATH = "/v1/chat/completions"

ANSWER = {
    "id": "chatcmpl-4b1d",
    "object": "chat.completion",
    "created": 1790000000,
    "model": "smollm2",
    "system_fingerprint": "fp_0a1b2c",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Red, green and blue.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18},
}
EVENT = (
    "id: chatcmpl-4b1d:2\n"
    'data: {"id":"chatcmpl-4b1d","object":"chat.completion.chunk","created":1790000000,"model":"smollm2",'
    '"system_fingerprint":"fp_0a1b2c","choices":[{"index":0,"delta":{"content":"Red"},"logprobs":null,'
    '"finish_reason":null}]}\n\n'
)

router = APIRouter(tags=["openai"])


@router.post(PATH, summary="Answer a conversation", responses=stream_example(EVENT, ANSWER))
async def chat_completions(body: ChatBody, request: Request, edge: EdgeOf) -> Response:
    """OpenAI's chat completions. The header `x-seed` says which seed was used, given or drawn."""
    card, order = await unless_gone(request.receive, _admit(body, edge))
    headers = {"x-seed": str(order.sampling.seed)}
    if not body.stream:
        return await unless_gone(request.receive, _whole(edge, card, order, headers))
    reply = Reply.open("chatcmpl", "chat.completion.chunk", card)
    return EventStream(
        _events(body, edge, reply, order),
        stream=reply.id,
        failure=failure_at(PATH),
        heartbeat_s=edge.heartbeat_s,
        headers=headers,
    )


async def _admit(body: ChatBody, edge: Edge) -> tuple[ModelCard, GenerateRequest]:
    card = edge.select(Task.GENERATE, body.model)
    order = body.to_request(await body.render(edge, card), card)
    edge.limits.check_stop(order.stop)
    edge.limits.check_cost([order], card)
    return card, order


async def _whole(edge: Edge, card: ModelCard, order: GenerateRequest, headers: dict[str, str]) -> Response:
    finish = (await edge.complete(order)).finish
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": finish.text, "refusal": None},
        **_ending(finish),
    }
    reply = Reply.open("chatcmpl", "chat.completion", card)
    return json_response(reply.document([choice], usage=usage([finish])), headers)


async def _events(body: ChatBody, edge: Edge, reply: Reply, order: GenerateRequest) -> AsyncGenerator[bytes]:
    """The role, with the first token so that no headers precede it; the text; the reason; the usage."""
    rest: dict[str, Any] = {"usage": None} if body.include_usage else {}

    def chunk_of(delta: dict[str, Any], finish: Finish | None = None) -> bytes:
        ending = {"logprobs": None, "finish_reason": None} if finish is None else _ending(finish)
        return msgspec.json.encode(reply.document([{"index": 0, "delta": delta, **ending}], **rest))

    opened = False
    async with aclosing(edge.engine.generate(order)) as chunks:
        async for chunk in chunks:
            if not opened:
                yield chunk_of({"role": "assistant", "content": ""})
                opened = True
            if chunk.text:
                yield chunk_of({"content": chunk.text})
            if chunk.finish is not None:
                yield chunk_of({}, chunk.finish)
                if body.include_usage:
                    yield msgspec.json.encode(reply.document([], usage=usage([chunk.finish])))
                yield DONE


def _ending(finish: Finish) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": FINISH[finish.reason], "stop_reason": finish.stop}

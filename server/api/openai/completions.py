"""`POST /v1/completions`: text or token ids, one prompt or many."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.connection import every, merge, unless_gone
from server.api.edge import Edge, EdgeOf, json_response, stream_example
from server.api.openai.replies import Reply, failure_at, usage
from server.api.openai.schemas import FINISH, CompletionBody
from server.api.sse import DONE, EventStream
from server.request import Finish, GenerateRequest, ModelCard, Task

PATH = "/v1/completions"
KIND = "text_completion"  # of documents and of chunks alike

CHOICE = {"index": 0, "text": " there was", "logprobs": None, "finish_reason": "length", "stop_reason": None}
ANSWER = {
    "id": "cmpl-4b1d",
    "object": KIND,
    "created": 1790000000,
    "model": "smollm2",
    "system_fingerprint": "fp_0a1b2c",
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
}
EVENT = (
    "id: cmpl-4b1d:1\n"
    'data: {"id":"cmpl-4b1d","object":"text_completion","created":1790000000,"model":"smollm2",'
    '"system_fingerprint":"fp_0a1b2c","choices":[{"index":0,"text":" there","logprobs":null,'
    '"finish_reason":null,"stop_reason":null}]}\n\n'
)

router = APIRouter(tags=["openai"])


@router.post(PATH, summary="Complete text", responses=stream_example(EVENT, ANSWER))
async def completions(body: CompletionBody, request: Request, edge: EdgeOf) -> Response:
    """OpenAI's text completions. `index` of a choice is that of its prompt; `x-seed` is the seed used."""
    card, orders = _admit(body, edge)
    headers = {"x-seed": str(orders[0].sampling.seed)}
    reply = Reply.open("cmpl", KIND, card)
    if not body.stream:
        return await unless_gone(request.receive, _whole(edge, reply, orders, headers))
    return EventStream(
        _events(body, edge, reply, orders),
        stream=reply.id,
        failure=failure_at(PATH),
        heartbeat_s=edge.heartbeat_s,
        headers=headers,
    )


def _admit(body: CompletionBody, edge: Edge) -> tuple[ModelCard, list[GenerateRequest]]:
    card = edge.select(Task.GENERATE, body.model)
    edge.limits.check_inputs(len(body.prompts), "prompt")
    edge.limits.check_stop(body.stop or ())
    orders = body.to_requests(card)
    edge.limits.check_cost(orders, card)
    return card, orders


async def _whole(
    edge: Edge, reply: Reply, orders: Sequence[GenerateRequest], headers: dict[str, str]
) -> Response:
    answers = await every(edge.complete(order) for order in orders)
    finishes = [answer.finish for answer in answers]
    choices = [_choice(index, finish.text, finish) for index, finish in enumerate(finishes)]
    return json_response(reply.document(choices, usage=usage(finishes)), headers)


async def _events(
    body: CompletionBody, edge: Edge, reply: Reply, orders: Sequence[GenerateRequest]
) -> AsyncGenerator[bytes]:
    """The prompts' texts as they come, each with its index; then the usage of all."""
    rest: dict[str, Any] = {"usage": None} if body.include_usage else {}
    finishes: list[Finish] = []
    async with aclosing(merge([edge.engine.generate(order) for order in orders])) as chunks:
        async for index, chunk in chunks:
            if chunk.finish is not None:
                finishes.append(chunk.finish)
            if chunk.text or chunk.finish is not None:
                choice = _choice(index, chunk.text, chunk.finish)
                yield msgspec.json.encode(reply.document([choice], **rest))
    if body.include_usage:
        yield msgspec.json.encode(reply.document([], usage=usage(finishes)))
    yield DONE


def _choice(index: int, text: str, finish: Finish | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": None if finish is None else FINISH[finish.reason],
        "stop_reason": None if finish is None else finish.stop,
    }

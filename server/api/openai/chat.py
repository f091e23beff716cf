"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict
from starlette.responses import Response

from server.api.connection import every, merge, unless_gone
from server.api.edge import Edge, EdgeOf, json_response, stream_example
from server.api.fields import Alternatives, Text, only
from server.api.openai.choices import ChatChoice
from server.api.openai.conversation import Conversation
from server.api.openai.replies import Reply, failure_at
from server.api.openai.schemas import OpenAIBody
from server.api.openai.usage import usage
from server.api.samples import samples
from server.api.sse import DONE, EventStream
from server.api.tenant import TenantOf
from server.errors import InvalidRequest
from server.request import GenerateRequest, ModelCard, Task

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
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 6,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
}
EVENT = (
    "id: chatcmpl-4b1d:2\n"
    'data: {"id":"chatcmpl-4b1d","object":"chat.completion.chunk","created":1790000000,"model":"smollm2",'
    '"system_fingerprint":"fp_0a1b2c","choices":[{"index":0,"delta":{"content":"Red"},"logprobs":null,'
    '"finish_reason":null,"stop_reason":null}]}\n\n'
)


class ChatBody(OpenAIBody, Conversation):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": "Name three colours."}],
                    "max_tokens": 40,
                    "temperature": 0.7,
                }
            ]
        }
    )

    logprobs: bool | None = False
    top_logprobs: Alternatives | None = None
    """How many alternatives to tell beside each token; needs `logprobs`."""
    add_special_tokens: bool | None = False
    """The template has written them already."""
    echo: Annotated[bool | None, only(False)] = False
    best_of: Annotated[int | None, only(1)] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Text] | None, only(["text"])] = None
    store: Annotated[bool | None, only(False)] = None
    service_tier: Annotated[Text | None, only("auto", "default")] = None
    safety_identifier: Text | None = None
    """As `user`."""

    @property
    def sample_count(self) -> int:
        return self.n or 1

    @property
    def scored(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("`top_logprobs` needs `logprobs` to be true", parameter="top_logprobs")
        if self.max_new_tokens == 0 and self.prompt_logprobs is None:
            raise InvalidRequest("`max_tokens` 0 needs `prompt_logprobs`", parameter="max_tokens")

    def to_orders(self, prompt: str, card: ModelCard, *, tenant: str) -> list[GenerateRequest]:
        """One for each sample. `prompt` is the rendered conversation."""
        order = replace(
            self.to_request(prompt, card, tenant=tenant),
            add_special_tokens=bool(self.add_special_tokens),
            alternatives=self.top_logprobs or 0,
            prompt_alternatives=self.prompt_logprobs,
            grammar=self.to_grammar(),
        )
        return samples(order, self.sample_count)


Orders = Sequence[GenerateRequest]
"""One for each sample of the answer."""


router = APIRouter(tags=["openai"])


@router.post(PATH, summary="Answer a conversation", responses=stream_example(EVENT, ANSWER))
async def chat_completions(body: ChatBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """OpenAI's chat completions. The header `x-seed` says which seed was used, given or drawn.

    `finish_reason` is `timeout` where the request's own `timeout` cut the text off.
    """
    card, orders = await unless_gone(request.receive, _admit(body, edge, tenant))
    headers = {"x-seed": str(orders[0].sampling.seed)}
    if not body.stream:
        return await unless_gone(request.receive, _whole(body, edge, card, orders, headers))
    reply = Reply.open("chatcmpl", "chat.completion.chunk", card)
    return EventStream(
        _events(body, edge, reply, orders),
        stream=reply.id,
        failure=failure_at(PATH),
        heartbeat_s=edge.heartbeat_s,
        headers=headers,
    )


async def _admit(body: ChatBody, edge: Edge, tenant: str) -> tuple[ModelCard, list[GenerateRequest]]:
    card = edge.select(Task.GENERATE, body.model)
    body.check()
    edge.limits.check_texts(1, body.sample_count, "n")
    edge.limits.check_stop(body.stop or ())
    orders = body.to_orders(await body.render(edge, card), card, tenant=tenant)
    edge.limits.check_cost(orders, card)
    return card, orders


async def _whole(
    body: ChatBody, edge: Edge, card: ModelCard, orders: Orders, headers: dict[str, str]
) -> Response:
    with body.naming_the_grammar():
        answers = await every(edge.complete(order) for order in orders)
    wanted, first = body.wanted(card), answers[0]
    choices = [
        ChatChoice(index, order, wanted).whole(answer)
        for index, (order, answer) in enumerate(zip(orders, answers, strict=True))
    ]
    told = usage([answer.finish for answer in answers], samples=len(answers))
    prompt = wanted.of_prompt(first.prompt, first.finish)
    reply = Reply.open("chatcmpl", "chat.completion", card)
    return json_response(reply.document(choices, usage=told, **prompt), headers)


async def _events(body: ChatBody, edge: Edge, reply: Reply, orders: Orders) -> AsyncGenerator[bytes]:
    """The role, with the first token so that no headers precede it; the text; the reason; the usage."""
    wanted = body.wanted(reply.card)
    choices = [ChatChoice(index, order, wanted) for index, order in enumerate(orders)]
    tally = await body.tally(edge, orders)
    with body.naming_the_grammar():
        async with aclosing(merge([edge.engine.generate(order) for order in orders])) as chunks:
            async for index, chunk in chunks:
                tally.add(index, chunk)
                for piece in choices[index].pieces(chunk):
                    prompt = wanted.of_prompt((), chunk.finish) if piece["finish_reason"] else {}
                    yield reply.event([piece], **tally.so_far(), **prompt)
    if body.include_usage:
        yield reply.event([], usage=tally.total())
    yield DONE

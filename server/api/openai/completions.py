"""`POST /v1/completions`: text or token ids, one prompt or many, one text for each or several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import ConfigDict
from starlette.responses import Response

from server.api.connection import every, merge, unless_gone
from server.api.edge import Answer, Edge, EdgeOf, json_response, stream_example
from server.api.fields import Alternatives, SampleCount, TextsOrTokens, only, texts_or_tokens
from server.api.openai.choices import TextChoice
from server.api.openai.replies import Reply, failure_at
from server.api.openai.schemas import OpenAIBody
from server.api.openai.usage import usage
from server.api.samples import mean_logprob, samples
from server.api.sse import DONE, EventStream
from server.api.tenant import TenantOf
from server.errors import EmptyInput, InvalidRequest
from server.request import GenerateRequest, ModelCard, Task

PATH = "/v1/completions"
KIND = "text_completion"  # of documents and of chunks alike
DEFAULT_TOKENS = 16

CHOICE = {"index": 0, "text": " there was", "logprobs": None, "finish_reason": "length", "stop_reason": None}
ANSWER = {
    "id": "cmpl-4b1d",
    "object": KIND,
    "created": 1790000000,
    "model": "smollm2",
    "system_fingerprint": "fp_0a1b2c",
    "choices": [CHOICE],
    "usage": {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
}
EVENT = (
    "id: cmpl-4b1d:1\n"
    'data: {"id":"cmpl-4b1d","object":"text_completion","created":1790000000,"model":"smollm2",'
    '"system_fingerprint":"fp_0a1b2c","choices":[{"index":0,"text":" there","logprobs":null,'
    '"finish_reason":null,"stop_reason":null}]}\n\n'
)


class CompletionBody(OpenAIBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Once upon a time", "max_tokens": 20, "seed": 42}]}
    )

    prompt: TextsOrTokens
    best_of: SampleCount | None = None
    """How many texts to write for each prompt, of which the `n` most probable a token are sent."""
    logprobs: Alternatives | None = None
    """Tell the log-probability of each token, and of so many alternatives."""
    echo: bool | None = False
    """Send the prompt before the text; with `logprobs`, its scores too."""
    add_special_tokens: bool | None = True
    suffix: Annotated[str | None, only()] = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        return texts_or_tokens(self.prompt)

    @property
    def sample_count(self) -> int:
        return self.best_of or self.n or 1

    @property
    def scored(self) -> int | None:
        return self.logprobs

    @property
    def echoes(self) -> bool:
        return bool(self.echo)

    @property
    def _echoes_tokens(self) -> bool:
        """Whether only its tokens tell what was read of the prompt."""
        return self.echoes and not (isinstance(self.prompts[0], str) and self.truncate is None)

    def check(self) -> None:
        """Raises EmptyInput for an empty prompt."""
        super().check()
        if not all(self.prompts):
            raise EmptyInput("prompt")
        if self.best_of is not None:
            self._check_best_of(self.best_of, self.n or 1)
        if self.max_new_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise InvalidRequest("`max_tokens` 0 needs `echo` or `prompt_logprobs`", parameter="max_tokens")

    def _check_best_of(self, best_of: int, n: int) -> None:
        if best_of < n:
            raise InvalidRequest(
                f"`best_of` must be at least `n`, {n}. Given: {best_of}", parameter="best_of"
            )
        if best_of > n and self.stream:
            raise InvalidRequest("`best_of` above `n` does not go with `stream`", parameter="best_of")

    def to_orders(self, card: ModelCard, *, tenant: str) -> list[GenerateRequest]:
        """One for each sample of each prompt, prompt by prompt, all with the same seed."""
        first, *rest = self.prompts
        order = replace(
            self.to_request(first, card, tenant=tenant, max_new_tokens=DEFAULT_TOKENS),
            add_special_tokens=self.add_special_tokens is not False,
            alternatives=self.logprobs or 0,
            prompt_alternatives=self._prompt_alternatives(),
            grammar=self.to_grammar(),
        )
        others = [replace(order, prompt=each if isinstance(each, str) else tuple(each)) for each in rest]
        return [sample for each in (order, *others) for sample in samples(each, self.sample_count)]

    def _prompt_alternatives(self) -> int | None:
        """Of each token of the prompt. 0 where these are to be known, but no others beside them."""
        counts = [
            self.prompt_logprobs,
            self.logprobs if self.echoes else None,
            0 if self._echoes_tokens or self.max_new_tokens == 0 else None,
        ]
        return max((count for count in counts if count is not None), default=None)


Orders = Sequence[GenerateRequest]
"""One for each sample, prompt by prompt: sample i of prompt p is number p x samples + i."""


router = APIRouter(tags=["openai"])


@router.post(PATH, summary="Complete text", responses=stream_example(EVENT, ANSWER))
async def completions(body: CompletionBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """OpenAI's text completions: choice i of prompt p has the `index` p x `n` + i.

    `x-seed` is the seed used, given or drawn. Offsets of `logprobs` count characters of the choice's text.
    `finish_reason` is `timeout` where the request's own `timeout` cut the text off.
    """
    card, orders = _admit(body, edge, tenant)
    headers = {"x-seed": str(orders[0].sampling.seed)}
    reply = Reply.open("cmpl", KIND, card)
    if not body.stream:
        return await unless_gone(request.receive, _whole(body, edge, reply, orders, headers))
    return EventStream(
        _events(body, edge, reply, orders),
        stream=reply.id,
        failure=failure_at(PATH),
        heartbeat_s=edge.heartbeat_s,
        headers=headers,
    )


def _admit(body: CompletionBody, edge: Edge, tenant: str) -> tuple[ModelCard, list[GenerateRequest]]:
    card = edge.select(Task.GENERATE, body.model)
    edge.limits.check_inputs(len(body.prompts), "prompt")
    edge.limits.check_texts(len(body.prompts), body.sample_count, "best_of" if body.best_of else "n")
    edge.limits.check_stop(body.stop or ())
    body.check()
    orders = body.to_orders(card, tenant=tenant)
    edge.limits.check_cost(orders, card)
    return card, orders


async def _whole(
    body: CompletionBody, edge: Edge, reply: Reply, orders: Orders, headers: dict[str, str]
) -> Response:
    with body.naming_the_grammar():
        answers = await every(edge.complete(order) for order in orders)
    told = usage([answer.finish for answer in answers], samples=body.sample_count)
    best, wanted = _best(body, list(zip(orders, answers, strict=True))), body.wanted(reply.card)
    choices = [TextChoice(index, order, wanted).whole(answer) for index, (order, answer) in enumerate(best)]
    return json_response(reply.document(choices, usage=told), headers)


def _best(
    body: CompletionBody, answered: list[tuple[GenerateRequest, Answer]]
) -> list[tuple[GenerateRequest, Answer]]:
    """Of each prompt the `n` samples whose tokens are the most probable on average, best first."""
    count, n = body.sample_count, body.n or 1
    if count == n:
        return answered
    groups = [answered[first : first + count] for first in range(0, len(answered), count)]
    ranked = [sorted(group, key=lambda one: mean_logprob(one[1]), reverse=True) for group in groups]
    return [one for group in ranked for one in group[:n]]


async def _events(body: CompletionBody, edge: Edge, reply: Reply, orders: Orders) -> AsyncGenerator[bytes]:
    """The texts as they come, each with its index; then the usage of all."""
    wanted = body.wanted(reply.card)
    choices = [TextChoice(index, order, wanted) for index, order in enumerate(orders)]
    tally = await body.tally(edge, orders)
    with body.naming_the_grammar():
        async with aclosing(merge([edge.engine.generate(order) for order in orders])) as chunks:
            async for index, chunk in chunks:
                tally.add(index, chunk)
                piece = choices[index].piece(chunk)
                if piece is not None:
                    yield reply.event([piece], **tally.so_far())
    if body.include_usage:
        yield reply.event([], usage=tally.total())
    yield DONE

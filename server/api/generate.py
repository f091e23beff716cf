"""`POST /generate` and `/generate_stream`, as text-generation-inference (TGI) speaks them."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.connection import every, unless_gone
from server.api.edge import Edge, EdgeOf, json_response, stream_example
from server.api.errors import log_unexpected, tgi_body
from server.api.generate_answer import EVENT, NO_TOKEN, WHOLE, Reply, Sample, Timing
from server.api.generate_body import GenerateBody
from server.api.samples import mean_logprob
from server.api.sse import EventStream
from server.api.tenant import TenantOf
from server.errors import InvalidRequest
from server.request import GenerateRequest, Task

router = APIRouter(tags=["generate"])


@router.post("/generate", summary="Generate text", responses=stream_example(EVENT, WHOLE))
async def generate(body: GenerateBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """Continue `inputs`. With `"stream": true`, every token is an event as soon as it is there.

    Without `parameters` the model samples; with `"parameters": {}` it is greedy, as in TGI. Where
    `parameters.timeout` cuts the text off, `finish_reason` is `timeout`.
    """
    if body.stream:
        return _stream(body, edge, tenant)
    return await unless_gone(request.receive, _whole(body, edge, tenant))


@router.post("/generate_stream", summary="Generate text as a stream", responses=stream_example(EVENT, WHOLE))
async def generate_stream(body: GenerateBody, edge: EdgeOf, tenant: TenantOf) -> Response:
    """As `/generate` with `"stream": true`."""
    if body.stream is False:
        raise InvalidRequest("`stream` must not be false here; use /generate", parameter="stream")
    return _stream(body, edge, tenant)


def _admit(
    body: GenerateBody, edge: Edge, tenant: str, *, stream: bool
) -> tuple[Reply, list[GenerateRequest]]:
    """One request for each sample of `best_of`."""
    card = edge.select(Task.GENERATE, body.model, adapter=body.chosen.adapter_id)
    edge.limits.check_texts(1, body.chosen.sample_count, "best_of")
    requests = body.to_requests(card, tenant=tenant, stream=stream)
    edge.limits.check_stop(requests[0].stop)
    edge.limits.check_cost(requests, card)
    return Reply(body=body, card=card), requests


async def _whole(body: GenerateBody, edge: Edge, tenant: str) -> Response:
    began = time.perf_counter()
    reply, requests = _admit(body, edge, tenant, stream=False)
    admitted = time.perf_counter()
    answers = await every(edge.complete(request) for request in requests)
    best, others = _best_first(list(zip(requests, answers, strict=True)))
    timing = Timing(began=began, admitted=admitted, ended=time.perf_counter())
    headers = reply.headers(best[0]) | timing.headers(best[1].finish)
    return json_response(reply.document(best, others), headers=headers)


def _best_first(samples: list[Sample]) -> tuple[Sample, Sequence[Sample]]:
    """The sample whose tokens are the most probable on average, and the others in their order."""
    best = max(range(len(samples)), key=lambda i: mean_logprob(samples[i][1]))
    return samples[best], samples[:best] + samples[best + 1 :]


def _stream(body: GenerateBody, edge: Edge, tenant: str) -> Response:
    reply, (request,) = _admit(body, edge, tenant, stream=True)
    return EventStream(
        _events(reply, edge, request),
        stream=secrets.token_hex(8),
        failure=_failure,
        heartbeat_s=edge.heartbeat_s,
        headers=reply.headers(request),
    )


async def _events(reply: Reply, edge: Edge, request: GenerateRequest) -> AsyncGenerator[bytes]:
    """One payload a token; the last one carries the whole text."""
    index = 0
    async with aclosing(edge.engine.generate(request)) as chunks:
        async for chunk in chunks:
            tokens = chunk.tokens if chunk.finish is None else chunk.tokens or (NO_TOKEN,)
            for token in tokens:
                index += token is not NO_TOKEN
                finish = chunk.finish if token is tokens[-1] else None
                yield msgspec.json.encode(reply.event(index, token, request, finish))


def _failure(error: Exception) -> Iterable[bytes]:
    log_unexpected(error)
    yield msgspec.json.encode(tgi_body(error))

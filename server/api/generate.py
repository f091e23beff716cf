"""`POST /generate` and `/generate_stream`, as text-generation-inference (TGI) speaks them."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from server.api.connection import unless_gone
from server.api.edge import Answer, Edge, EdgeOf, json_response, stream_example
from server.api.errors import log_unexpected, tgi_body
from server.api.fields import (
    MAX_COUNT,
    MinP,
    ModelName,
    RepetitionPenalty,
    Seed,
    Stop,
    StrictBody,
    Text,
    TokenCount,
    TopP,
    named,
    only,
    sampling,
)
from server.api.sse import EventStream
from server.errors import EmptyInput, InvalidRequest
from server.request import Finish, FinishReason, GenerateRequest, ModelCard, Sampling, Task, Token

FINISH = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS: "eos_token",
    FinishReason.STOP: "stop_sequence",
}

EXAMPLE: dict[str, Any] = {
    "inputs": "The capital of France is",
    "parameters": {"max_new_tokens": 20, "temperature": 0.7, "seed": 42, "details": True},
}


class GenerateParameters(StrictBody):
    """TGI's parameters, and `min_p` and `ignore_eos`. What is not built yet is refused unless neutral."""

    do_sample: bool = False
    temperature: Annotated[float, Field(gt=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    top_p: TopP | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = Field(None, validation_alias=named("repetition_penalty"))
    seed: Seed | None = Field(None, validation_alias=named("seed"))
    max_new_tokens: TokenCount | None = Field(None, validation_alias=named("max_new_tokens"))
    stop: Stop | None = None
    ignore_eos: bool = False
    truncate: TokenCount | None = None
    details: bool = False
    return_full_text: bool | None = None

    best_of: Annotated[int | None, only(1)] = None
    decoder_input_details: Annotated[bool | None, only(False)] = False
    frequency_penalty: Annotated[float | None, only(0.0)] = None
    presence_penalty: Annotated[float | None, only(0.0)] = None
    typical_p: Annotated[float | None, only(1.0)] = Field(None, validation_alias=named("typical_p"))
    min_tokens: Annotated[int | None, only(0)] = Field(None, validation_alias=named("min_tokens"))
    watermark: Annotated[bool | None, only(False)] = False
    top_n_tokens: Annotated[int | None, only(0)] = None
    grammar: Annotated[Any, only()] = None
    adapter_id: Annotated[str | None, only()] = None

    @property
    def samples(self) -> bool:
        """TGI: `do_sample`, or any parameter that only makes sense with it."""
        narrows = self.top_k is not None or (self.top_p or 1.0) < 1.0 or (self.min_p or 0.0) > 0.0
        return self.do_sample or self.temperature is not None or narrows

    def to_sampling(self) -> Sampling:
        return sampling(
            temperature=(self.temperature or 1.0) if self.samples else 0.0,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )


SAMPLED = GenerateParameters.model_validate({"do_sample": True})


class GenerateBody(StrictBody):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    inputs: Text
    parameters: GenerateParameters | None = None
    stream: bool | None = None
    model: ModelName | None = None

    @property
    def chosen(self) -> GenerateParameters:
        """TGI samples when `parameters` is absent, and does not when it is empty."""
        return self.parameters or SAMPLED

    def to_request(self, card: ModelCard) -> GenerateRequest:
        """Raises EmptyInput, and InvalidRequest where `truncate` would cut nothing for `card`."""
        chosen = self.chosen
        if not self.inputs:
            raise EmptyInput("inputs")
        if chosen.truncate is not None and chosen.truncate >= card.max_tokens:
            raise InvalidRequest(
                f"`truncate` must be strictly positive and less than {card.max_tokens}. "
                f"Given: {chosen.truncate}",
                parameter="truncate",
            )
        return GenerateRequest(
            prompt=self.inputs,
            sampling=chosen.to_sampling(),
            model=card.name,
            max_new_tokens=chosen.max_new_tokens,
            stop=tuple(chosen.stop or ()),
            ignore_eos=chosen.ignore_eos,
            truncate=chosen.truncate,
        )


TOKEN = {"id": 7042, "text": " Paris", "logprob": -0.25, "special": False}
WHOLE = {
    "generated_text": " Paris",
    "details": {
        "finish_reason": "length",
        "generated_tokens": 1,
        "seed": 42,
        "prefill": [],
        "tokens": [TOKEN],
    },
}
EVENT = (
    "id: 5f2c:1\n"
    'data: {"index":1,"token":{"id":7042,"text":" Paris","logprob":-0.25,"special":false},'
    '"generated_text":" Paris","details":null}\n\n'
)

router = APIRouter(tags=["generate"])


@router.post("/generate", summary="Generate text", responses=stream_example(EVENT, WHOLE))
async def generate(body: GenerateBody, request: Request, edge: EdgeOf) -> Response:
    """Continue `inputs`. With `"stream": true`, every token is an event as soon as it is there.

    Without `parameters` the model samples; with `"parameters": {}` it is greedy, as in TGI.
    """
    if body.stream:
        return _stream(body, edge)
    return await unless_gone(request.receive, _whole(body, edge))


@router.post("/generate_stream", summary="Generate text as a stream", responses=stream_example(EVENT, WHOLE))
async def generate_stream(body: GenerateBody, edge: EdgeOf) -> Response:
    """As `/generate` with `"stream": true`."""
    if body.stream is False:
        raise InvalidRequest("`stream` must not be false here; use /generate", parameter="stream")
    return _stream(body, edge)


def _admit(body: GenerateBody, edge: Edge) -> tuple[ModelCard, GenerateRequest]:
    card = edge.select(Task.GENERATE, body.model)
    request = body.to_request(card)
    edge.limits.check_stop(request.stop)
    edge.limits.check_cost([request], card)
    return card, request


async def _whole(body: GenerateBody, edge: Edge) -> Response:
    began = time.perf_counter()
    card, request = _admit(body, edge)
    admitted = time.perf_counter()
    answer = await edge.complete(request)
    details = _whole_details(answer, request.sampling) if body.chosen.details else None
    timing = _Timing(began=began, admitted=admitted, ended=time.perf_counter())
    return json_response(
        {"generated_text": _full_text(body, answer.finish), "details": details},
        headers=_compute_headers(body, card, request) | _timing_headers(timing, answer.finish),
    )


def _stream(body: GenerateBody, edge: Edge) -> Response:
    card, request = _admit(body, edge)
    return EventStream(
        _events(body, edge, request),
        stream=secrets.token_hex(8),
        failure=_failure,
        heartbeat_s=edge.heartbeat_s,
        headers=_compute_headers(body, card, request),
    )


async def _events(body: GenerateBody, edge: Edge, request: GenerateRequest) -> AsyncGenerator[bytes]:
    """One payload a token; the last one carries the whole text."""
    index = 0
    async with aclosing(edge.engine.generate(request)) as chunks:
        async for chunk in chunks:
            for token in chunk.tokens:
                index += 1
                last = token is chunk.tokens[-1]
                yield _event(index, token, body, request.sampling, chunk.finish if last else None)


def _event(index: int, token: Token, body: GenerateBody, chosen: Sampling, finish: Finish | None) -> bytes:
    details = None
    if finish is not None and body.chosen.details:
        details = _details(finish, chosen) | {"input_length": finish.prompt_tokens}
    text = None if finish is None else _full_text(body, finish)
    return msgspec.json.encode(
        {"index": index, "token": _token(token), "generated_text": text, "details": details}
    )


def _failure(error: Exception) -> Iterable[bytes]:
    log_unexpected(error)
    yield msgspec.json.encode(tgi_body(error))


def _full_text(body: GenerateBody, finish: Finish) -> str:
    return body.inputs + finish.text if body.chosen.return_full_text else finish.text


def _token(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def _details(finish: Finish, chosen: Sampling) -> dict[str, Any]:
    return {
        "finish_reason": FINISH[finish.reason],
        "generated_tokens": finish.generated_tokens,
        "seed": None if chosen.greedy else finish.seed,
    }


def _whole_details(answer: Answer, chosen: Sampling) -> dict[str, Any]:
    tokens = [_token(token) for token in answer.tokens]
    return _details(answer.finish, chosen) | {"prefill": [], "tokens": tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    """Readings of one clock, in seconds."""

    began: float
    admitted: float
    ended: float


def _compute_headers(body: GenerateBody, card: ModelCard, request: GenerateRequest) -> dict[str, str]:
    """TGI's, and `x-seed`: the seed used, given or drawn."""
    return {
        "x-compute-type": card.device,
        "x-compute-characters": str(len(body.inputs)),
        "x-seed": str(request.sampling.seed),
    }


def _timing_headers(timing: _Timing, finish: Finish) -> dict[str, str]:
    """TGI's, in milliseconds but for `x-compute-time`. The engine's queue counts as inference."""
    total_s = timing.ended - timing.began
    inference_ms = (timing.ended - timing.admitted) * 1000
    return {
        "x-compute-time": f"{total_s:.3f}",
        "x-total-time": f"{total_s * 1000:.0f}",
        "x-validation-time": f"{(timing.admitted - timing.began) * 1000:.0f}",
        "x-inference-time": f"{inference_ms:.0f}",
        "x-time-per-token": f"{inference_ms / max(finish.generated_tokens, 1):.0f}",
        "x-prompt-tokens": str(finish.prompt_tokens),
        "x-generated-tokens": str(finish.generated_tokens),
    }

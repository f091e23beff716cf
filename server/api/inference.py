"""`POST /`, `/models/{id}` and `/models/{id}/pipeline/{task}`: where `InferenceClient` sends every task.

The body tells which one is meant, as far as it can; then the model does what it is for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from server.api import embed, fill_mask, generate, rewrite
from server.api.edge import Edge, EdgeOf, example
from server.api.fields import StrictBody
from server.api.generate_body import GenerateBody
from server.api.tenant import TenantOf
from server.errors import InvalidRequest
from server.request import ModelCard, Task

router = APIRouter(tags=["inference client"])

Answer = Callable[..., Awaitable[Response]]

# By the names that Hugging Face gives the tasks.
TASKS: Mapping[str, tuple[type[StrictBody], Answer]] = {
    "text-generation": (GenerateBody, generate.generate),
    "text2text-generation": (GenerateBody, generate.generate),
    "fill-mask": (fill_mask.FillMaskBody, fill_mask.fill_mask),
    "feature-extraction": (embed.EmbedBody, embed.embed),
    "summarization": (rewrite.SummarizeBody, rewrite.summarize),
    "translation": (rewrite.TranslateBody, rewrite.translate),
}
EMBEDDING = frozenset({"normalize", "truncate", "truncation_direction", "dimensions", "encoding_format"})
REWRITING = frozenset({"generate_parameters", "truncation", "clean_up_tokenization_spaces"})
TRANSLATORS = frozenset({"marian", "mbart", "m2m_100"})  # architectures that were made for it
ANSWERS = example([{"summary_text": "…"}], "What the route of that task answers")


@router.post("/", summary="Any task, told by its body", responses=ANSWERS)
async def root(request: Request, edge: EdgeOf, tenant: TenantOf, task: str | None = None) -> Response:
    """What `InferenceClient(url)` sends. `?task=` decides where the body does not."""
    return await _dispatch(request, edge, tenant, name=None, task=task)


@router.post("/models/{name:path}/pipeline/{task}", summary="A task of one model", responses=ANSWERS)
async def pipeline(name: str, task: str, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """What `InferenceClient` sends to the address of a model and a task."""
    return await _dispatch(request, edge, tenant, name=name, task=task)


@router.post("/models/{name:path}", summary="Any task of one model, told by its body", responses=ANSWERS)
async def model(
    name: str, request: Request, edge: EdgeOf, tenant: TenantOf, task: str | None = None
) -> Response:
    """What `InferenceClient` sends to the address of a model. `?task=` decides where the body does not."""
    return await _dispatch(request, edge, tenant, name=name, task=task)


async def _dispatch(
    request: Request, edge: Edge, tenant: str, *, name: str | None, task: str | None
) -> Response:
    body = await _object(request)
    if name is not None:
        body = {"model": name} | body
    chosen = task or _told_by(body) or _usual(_meant(edge, body))
    if chosen not in TASKS:
        raise InvalidRequest(f"`task` must be one of {', '.join(TASKS)}", parameter="task")
    shape, answer = TASKS[chosen]
    try:
        parsed = shape.model_validate(body)
    except ValidationError as error:
        problems = [problem | {"loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems) from error
    return await answer(parsed, request, edge, tenant)


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        problem = {"type": "json_invalid", "loc": ("body",), "msg": "", "ctx": {}}
        raise RequestValidationError([problem]) from None
    if not isinstance(body, dict):
        raise RequestValidationError([{"type": "model_attributes_type", "loc": ("body",), "msg": ""}])
    return body


def _parameters(body: Mapping[str, Any]) -> set[str]:
    parameters = body.get("parameters")
    return set(parameters) if isinstance(parameters, dict) else set()


def _meant(edge: Edge, body: Mapping[str, Any]) -> ModelCard:
    """The model that the body names; else the first, or the first that rewrites where that is asked for."""
    name = body.get("model")
    if name is None and _parameters(body) & REWRITING:
        return edge.select(Task.SUMMARIZE, None)
    return edge.select_any(name if isinstance(name, str) else None)


def _told_by(body: Mapping[str, Any]) -> str | None:
    """The task of which only that can be the body."""
    names = _parameters(body)
    if "stream" in body or names & {"max_new_tokens", "details", "do_sample"}:
        return "text-generation"
    if names & {"src_lang", "tgt_lang"}:
        return "translation"
    if names & {"targets"}:
        return "fill-mask"
    return "feature-extraction" if EMBEDDING & set(body) else None


def _usual(card: ModelCard) -> str:
    """What the model is for."""
    if card.source_tokens is not None:
        return "translation" if card.architecture in TRANSLATORS else "summarization"
    if Task.GENERATE in card.tasks:
        return "text-generation"
    return "fill-mask" if Task.FILL_MASK in card.tasks else "feature-extraction"

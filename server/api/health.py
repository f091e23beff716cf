"""`GET /health`, `/ready` and `/info`: whether the process lives, whether it works, and what it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from server.api.edge import Edge, EdgeOf, example, json_response
from server.api.fields import MAX_SAMPLES
from server.errors import EngineFailed, NotReady
from server.request import ModelCard, Task

UNAVAILABLE = 503
PIPELINE_TAGS = {
    Task.GENERATE: "text-generation",
    Task.FILL_MASK: "fill-mask",
    Task.EMBED: "feature-extraction",
}

CARD = {
    "name": "smollm2",
    "source": "smollm2-135m-instruct",
    "architecture": "llama",
    "tasks": ["generate"],
    "max_tokens": 8192,
    "parameters": 134515008,
    "dtype": "bfloat16",
    "device": "cpu",
    "fingerprint": "fp_0a1b2c",
    "kernels": "avx512",
    "quantization": None,
    "batch_invariant": True,
    "embedding_size": None,
    "pooling": None,
    "source_tokens": None,
    "languages": [],
    "adapters": [],
}
INFO = {
    "router": "triptych",
    "version": "0.1.0",
    "sha": None,
    "docker_label": None,
    "max_best_of": 128,
    "max_stop_sequences": 16,
    "max_client_batch_size": 256,
    "model_id": "smollm2-135m-instruct",
    "model_sha": None,
    "model_dtype": "bfloat16",
    "model_device_type": "cpu",
    "model_pipeline_tag": "text-generation",
    "max_input_tokens": 8191,
    "max_total_tokens": 8192,
    "models": [CARD],
}

router = APIRouter(tags=["health"])


@router.get("/health", summary="Is the process alive?", responses=example({"status": "ok"}))
async def health(edge: EdgeOf) -> Response:
    """200 while the engine's process lives, else 503. For whether it can serve, ask `/ready`."""
    return json_response({"status": "ok"}) if edge.engine.alive else _unhealthy("unhealthy")


@router.get("/ready", summary="Can it serve?", responses=example({"status": "ready"}))
async def ready(edge: EdgeOf) -> Response:
    """200 when a forward pass of every model has succeeded, recently; else 503, saying why not."""
    try:
        await edge.engine.check_ready()
    except (NotReady, EngineFailed) as error:
        return _unhealthy(str(error))
    return json_response({"status": "ready"})


def _unhealthy(why: str) -> Response:
    body = msgspec.json.encode({"error": why, "error_type": "healthcheck"})
    return Response(body, UNAVAILABLE, media_type="application/json")


@router.get("/info", summary="What is served, and within which limits", responses=example(INFO))
async def info(edge: EdgeOf) -> Response:
    """TGI's `/info` for the first model that generates (or the first at all), and a card for every model."""
    card = next((c for c in edge.cards if Task.GENERATE in c.tasks), edge.cards[0])
    models = [_card(each, edge.engine.languages(each.name)) for each in edge.cards]
    return json_response(_server(edge) | _model(card) | {"models": models})


def _server(edge: Edge) -> dict[str, Any]:
    return {
        "router": "triptych",
        "version": edge.version,
        "sha": None,
        "docker_label": None,
        "max_best_of": min(MAX_SAMPLES, edge.limits.max_inputs),
        "max_stop_sequences": edge.limits.max_stop_sequences,
        "max_client_batch_size": edge.limits.max_inputs,
    }


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "model_id": card.source,
        "model_sha": None,
        "model_dtype": card.dtype,
        "model_device_type": card.device,
        "model_pipeline_tag": _pipeline_tag(card),
        "max_input_tokens": card.source_tokens or card.max_tokens - 1,
        "max_total_tokens": card.max_tokens,
    }


def _pipeline_tag(card: ModelCard) -> str:
    if card.source_tokens is not None:
        return "text2text-generation"
    return next(tag for task, tag in PIPELINE_TAGS.items() if task in card.tasks)


def _card(card: ModelCard, languages: Sequence[str]) -> dict[str, Any]:
    return {
        "name": card.name,
        "source": card.source,
        "architecture": card.architecture,
        "tasks": sorted(task.value for task in card.tasks),
        "max_tokens": card.max_tokens,
        "parameters": card.parameters,
        "dtype": card.dtype,
        "device": card.device,
        "fingerprint": card.fingerprint,
        "kernels": card.kernels,
        "quantization": card.quantization,
        "batch_invariant": card.batch_invariant,
        "embedding_size": card.embedding_size,
        "pooling": card.pooling,
        "source_tokens": card.source_tokens,
        "languages": list(languages),
        "adapters": list(card.adapters),
    }

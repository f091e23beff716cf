"""`GET /v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from server.api.edge import Edge, EdgeOf, example, json_response
from server.errors import ModelNotFound

CARD = {"id": "smollm2", "object": "model", "created": 1790000000, "owned_by": "triptych"}

router = APIRouter(tags=["openai"])


@router.get("/v1/models", summary="List the models", responses=example({"object": "list", "data": [CARD]}))
async def list_models(edge: EdgeOf) -> Response:
    """Every loaded model, in the order of the command line, each followed by its adapters."""
    return json_response({"object": "list", "data": list(_entries(edge))})


@router.get("/v1/models/{name:path}", summary="One model", responses=example(CARD))
async def get_model(name: str, edge: EdgeOf) -> Response:
    """The model or adapter called `name`, which may hold slashes; 404 if none is."""
    entries = {entry["id"]: entry for entry in _entries(edge)}
    if name not in entries:
        raise ModelNotFound(entries)
    return json_response(entries[name])


def _entries(edge: Edge) -> Iterator[dict[str, Any]]:
    for card in edge.cards:
        yield _entry(card.name, edge)
        for adapter in card.adapters:
            yield _entry(adapter, edge) | {"parent": card.name}


def _entry(name: str, edge: Edge) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": edge.started, "owned_by": "triptych"}

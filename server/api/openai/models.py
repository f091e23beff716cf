"""`GET /v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from server.api.edge import Edge, EdgeOf, example, json_response
from server.errors import ModelNotFound
from server.request import ModelCard

CARD = {"id": "smollm2", "object": "model", "created": 1790000000, "owned_by": "triptych"}

router = APIRouter(tags=["openai"])


@router.get("/v1/models", summary="List the models", responses=example({"object": "list", "data": [CARD]}))
async def list_models(edge: EdgeOf) -> Response:
    """Every loaded model, in the order of the command line."""
    return json_response({"object": "list", "data": [_card(card, edge) for card in edge.cards]})


@router.get("/v1/models/{name:path}", summary="One model", responses=example(CARD))
async def get_model(name: str, edge: EdgeOf) -> Response:
    """The model called `name`, which may hold slashes; 404 if none is."""
    for card in edge.cards:
        if card.name == name:
            return json_response(_card(card, edge))
    raise ModelNotFound(card.name for card in edge.cards)


def _card(card: ModelCard, edge: Edge) -> dict[str, Any]:
    return {"id": card.name, "object": "model", "created": edge.started, "owned_by": "triptych"}

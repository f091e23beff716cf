"""`POST /embed`, as text-embeddings-inference (TEI) speaks it."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from server.api.connection import every, unless_gone
from server.api.edge import EdgeOf, characters, example, json_response
from server.api.fields import MAX_COUNT, ModelName, TextsOrTokens, only, texts_or_tokens
from server.api.standing import StandingParameters
from server.api.tenant import TenantOf
from server.errors import EmptyInput
from server.request import EmbedRequest, ModelCard, Side, Task, Terms

EXAMPLE: dict[str, Any] = {"inputs": ["What is deep learning?", "A kind of machine learning."]}


class EmbedBody(StandingParameters):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    inputs: TextsOrTokens
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    normalize: bool | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    model: ModelName | None = None

    prompt_name: Annotated[str | None, only()] = None
    encoding_format: Annotated[str | None, only("float")] = None

    def to_requests(self, card: ModelCard, *, tenant: str) -> list[EmbedRequest]:
        """One for each text. Raises EmptyInput for an empty one."""
        texts = texts_or_tokens(self.inputs)
        if not all(texts):
            raise EmptyInput("inputs")
        return [self._to_request(text, card, self.terms(tenant)) for text in texts]

    def _to_request(self, text: str | list[int], card: ModelCard, terms: Terms) -> EmbedRequest:
        return EmbedRequest(
            text=text if isinstance(text, str) else tuple(text),
            model=card.name,
            terms=terms,
            truncate=bool(self.truncate),
            truncation_side=Side((self.truncation_direction or "right").lower()),
            normalize=self.normalize is not False,
            dimensions=self.dimensions,
        )


router = APIRouter(tags=["embed"])


@router.post("/embed", summary="Embed texts", responses=example([[0.0124, -0.0731], [0.0310, -0.0442]]))
async def embed(body: EmbedBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """A vector for each text: always a list of lists, even for one text."""
    began = time.perf_counter()
    card = edge.select(Task.EMBED, body.model)
    texts = texts_or_tokens(body.inputs)
    edge.limits.check_inputs(len(texts), "inputs")
    work = every(edge.engine.embed(each) for each in body.to_requests(card, tenant=tenant))
    embeddings = await unless_gone(request.receive, work)
    total_s = time.perf_counter() - began
    headers = {
        "x-compute-type": card.device,
        "x-compute-time": f"{total_s * 1000:.0f}",  # TEI gives it in milliseconds, unlike TGI
        "x-compute-characters": str(characters(texts)),
        "x-compute-tokens": str(sum(embedding.tokens for embedding in embeddings)),
        "x-total-time": f"{total_s * 1000:.0f}",
    }
    return json_response([embedding.vector for embedding in embeddings], headers)

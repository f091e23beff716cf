"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from server.api.connection import every, unless_gone
from server.api.edge import EdgeOf, example, json_response
from server.api.fields import MAX_COUNT, ModelName, Text, TextsOrTokens, texts_or_tokens
from server.api.standing import StandingParameters
from server.api.tenant import TenantOf
from server.errors import EmptyInput
from server.request import Embedding, EmbedRequest, ModelCard, Task

ANSWER = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0124, -0.0731]}],
    "model": "all-MiniLM-L6-v2",
    "usage": {"prompt_tokens": 6, "total_tokens": 6},
}


class EmbeddingsBody(StandingParameters):
    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "What is deep learning?"}]})

    input: TextsOrTokens
    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    user: Text | None = None

    def to_requests(self, card: ModelCard, *, tenant: str) -> list[EmbedRequest]:
        """One for each text. Raises EmptyInput for an empty one."""
        texts = texts_or_tokens(self.input)
        if not all(texts):
            raise EmptyInput("input")
        return [
            EmbedRequest(
                text=text if isinstance(text, str) else tuple(text),
                model=card.name,
                terms=self.terms(tenant),
                dimensions=self.dimensions,
            )
            for text in texts
        ]


router = APIRouter(tags=["openai"])


@router.post("/v1/embeddings", summary="Embed texts", responses=example(ANSWER))
async def embeddings(body: EmbeddingsBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """OpenAI's embeddings. `base64` is little-endian float32; OpenAI's own client asks for it by itself."""
    card = edge.select(Task.EMBED, body.model)
    edge.limits.check_inputs(len(texts_or_tokens(body.input)), "input")
    work = every(edge.engine.embed(each) for each in body.to_requests(card, tenant=tenant))
    results = await unless_gone(request.receive, work)
    tokens = sum(result.tokens for result in results)
    encode = _base64 if body.encoding_format == "base64" else _floats
    return json_response(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(result)}
                for index, result in enumerate(results)
            ],
            "model": card.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _floats(embedding: Embedding) -> Any:
    return embedding.vector


def _base64(embedding: Embedding) -> Any:
    packed = struct.pack(f"<{len(embedding.vector)}f", *embedding.vector)
    return base64.b64encode(packed).decode()

"""`POST /fill-mask`: what could stand where the mask is, in the shape of the `transformers` pipeline."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from server.api.connection import every, unless_gone
from server.api.edge import EdgeOf, example, json_response
from server.api.fields import ModelName, StrictBody, Texts, Word, as_list, one_or_many
from server.api.standing import StandingParameters
from server.api.tenant import TenantOf
from server.errors import EmptyInput
from server.request import FillMaskRequest, MaskCandidate, ModelCard, Task, Terms

MAX_TOP_K = 1000

EXAMPLE: dict[str, Any] = {"inputs": "Paris is the [MASK] of France.", "parameters": {"top_k": 1}}


class FillMaskParameters(StandingParameters):
    """`targets` restrict the candidates; their scores are those of the whole vocabulary still."""

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] | None = None
    targets: Annotated[list[Word], Field(min_length=1), BeforeValidator(as_list)] | None = None


class FillMaskBody(StrictBody):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    inputs: Texts
    parameters: FillMaskParameters = FillMaskParameters()
    model: ModelName | None = None

    def to_requests(self, card: ModelCard, *, tenant: str) -> list[FillMaskRequest]:
        """One for each text. Raises EmptyInput for an empty one."""
        texts = one_or_many(self.inputs)
        if not all(texts):
            raise EmptyInput("inputs")
        return [self._to_request(text, card, self.parameters.terms(tenant)) for text in texts]

    def _to_request(self, text: str, card: ModelCard, terms: Terms) -> FillMaskRequest:
        targets = self.parameters.targets
        return FillMaskRequest(
            text=text,
            model=card.name,
            terms=terms,
            top_k=self.parameters.top_k or 5,
            targets=None if targets is None else tuple(targets),
        )


ANSWER = [
    {"score": 0.41, "token": 3007, "token_str": "capital", "sequence": "paris is the capital of france."}
]

router = APIRouter(tags=["fill-mask"])


@router.post("/fill-mask", summary="Fill in masked words", responses=example(ANSWER))
async def fill_mask(body: FillMaskBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """The likeliest words for each mask, best first.

    One mask gives a list of candidates; several give a list for each mask; a list of texts gives a list
    of those. `sequence` keeps the special tokens where there are several masks, as the pipeline does.
    """
    card = edge.select(Task.FILL_MASK, body.model)
    edge.limits.check_inputs(len(one_or_many(body.inputs)), "inputs")
    edge.limits.check_targets(len(body.parameters.targets or ()))
    work = every(edge.engine.fill_mask(each) for each in body.to_requests(card, tenant=tenant))
    answers = [_shape(masks) for masks in await unless_gone(request.receive, work)]
    return json_response(answers if isinstance(body.inputs, list) else answers[0])


def _shape(masks: list[list[MaskCandidate]]) -> list[Any]:
    candidates = [[_candidate(each) for each in mask] for mask in masks]
    return candidates[0] if len(candidates) == 1 else candidates


def _candidate(candidate: MaskCandidate) -> dict[str, Any]:
    return {
        "score": candidate.score,
        "token": candidate.token,
        "token_str": candidate.token_str,
        "sequence": candidate.sequence,
    }

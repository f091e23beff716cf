"""`POST /v1/verify`: makes a text again from its receipt, and says whether it came out the same."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.connection import unless_gone
from server.api.edge import Edge, EdgeOf, example, json_response
from server.api.fields import ModelName, StrictBody
from server.api.receipt_body import Receipt
from server.api.tenant import TenantOf
from server.errors import InvalidRequest
from server.request import Finish, FinishReason, GenerateRequest, ModelCard, Task

OTHER = (
    "the receipt is of other weights, another tokenizer or other numerics than this server's, which cannot "
    'vouch for it; with "force": true it makes the text again all the same'
)
IDENTICAL = {
    "verdict": "identical",
    "tokens": 20,
    "model": "smollm2-135m-instruct",
    "system_fingerprint": "fp_0a1b2c",
    "batch_invariant": True,
}


class VerifyBody(StrictBody):
    """`model` is what the receipt's model is called here; `force` disregards the fingerprint."""

    receipt: Receipt
    model: ModelName | None = None
    force: bool = False


router = APIRouter(tags=["verify"])


@router.post("/v1/verify", summary="Make a text again from its receipt", responses=example(IDENTICAL))
async def verify(body: VerifyBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """Generate once more what `receipt` records, with the same parameters from the same prompt ids.

    `verdict` is `identical`; or `different`, with the `index` of the first token that is and what it was
    `expected` to be (null: the text ended there; an `index` of null: only text or finish reason differ); or
    `other_fingerprint`, where the receipt is of another model or machine, which `force` disregards.
    """
    body.receipt.check_hash()
    card = edge.select(Task.GENERATE, body.model or body.receipt.model)
    if body.receipt.system_fingerprint != card.fingerprint and not body.force:
        return json_response(_other_fingerprint(body.receipt, card))
    again = body.receipt.to_request(card, tenant=tenant)
    finish = await unless_gone(request.receive, _replay(again, card, edge))
    return json_response(_verdict(body.receipt, finish) | _served_by(card))


async def _replay(request: GenerateRequest, card: ModelCard, edge: Edge) -> Finish:
    """Raises InvalidRequest where this server would refuse the request itself."""
    try:
        edge.limits.check_stop(request.stop)
        edge.limits.check_cost([request], card)
        return await _finish(request, edge)
    except InvalidRequest as error:
        raise InvalidRequest(f"the receipt cannot be replayed here: {error}", parameter="receipt") from error


async def _finish(request: GenerateRequest, edge: Edge) -> Finish:
    if request.max_new_tokens == 0:  # a prompt that was only scored, or a deadline before the first token
        return Finish(
            reason=FinishReason.LENGTH,
            text="",
            prompt_tokens=len(request.prompt),
            generated_tokens=0,
            seed=request.sampling.seed,
        )
    return (await edge.complete(request)).finish


def _verdict(receipt: Receipt, finish: Finish) -> dict[str, Any]:
    pairs = zip_longest(receipt.output_ids, finish.output_ids)
    differing = ((i, *pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    index, expected, got = next(differing, (None, None, None))
    same_reason = receipt.finish_reason in (finish.reason, FinishReason.TIMEOUT)
    if index is None and same_reason and receipt.text == finish.text:
        return {"verdict": "identical", "tokens": len(receipt.output_ids)}
    return {
        "verdict": "different",
        "index": index,
        "expected": expected,
        "got": got,
        "expected_text": receipt.text,
        "got_text": finish.text,
        "expected_finish_reason": receipt.finish_reason.value,
        "got_finish_reason": finish.reason.value,
    }


def _other_fingerprint(receipt: Receipt, card: ModelCard) -> dict[str, Any]:
    told = {"receipt_fingerprint": receipt.system_fingerprint, "message": OTHER}
    return {"verdict": "other_fingerprint"} | told | _served_by(card)


def _served_by(card: ModelCard) -> dict[str, Any]:
    """Where texts are not batch-invariant, a difference may come from what else was running."""
    return {
        "model": card.name,
        "system_fingerprint": card.fingerprint,
        "batch_invariant": card.batch_invariant,
    }

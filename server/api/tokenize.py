"""`POST /tokenize`: one route, three dialects, told apart by their keys.

* `inputs`, a string: TGI, a list of tokens.
* `inputs`, a list, or with `add_special_tokens`: TEI, a list of such lists.
* `prompt` or `messages`: vLLM, ids and a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Discriminator, Tag
from starlette.responses import Response

from server.api.connection import every, unless_gone
from server.api.edge import Edge, EdgeOf, TokenSpan, example, json_response
from server.api.fields import ModelName, StrictBody, Text, Texts, one_or_many, only
from server.api.generate_body import GenerateBody
from server.api.openai.conversation import Conversation
from server.errors import EmptyInput
from server.request import ModelCard, Task


class TeiTokenizeBody(StrictBody):
    inputs: Texts
    add_special_tokens: bool = True
    prompt_name: Annotated[str | None, only()] = None
    model: ModelName | None = None


class PromptBody(StrictBody):
    prompt: Text
    add_special_tokens: bool = True
    return_token_strs: bool | None = False
    model: ModelName | None = None


class MessagesBody(Conversation):
    """The tokens that `/v1/chat/completions` would read; the template writes the special ones itself."""

    add_special_tokens: bool = False
    return_token_strs: bool | None = False
    model: ModelName | None = None


def _dialect(body: Any) -> str:
    """The tag of a body; the brackets keep it out of error messages, where it would look like a field."""
    if not isinstance(body, dict):
        return "<tgi>"
    if "messages" in body:
        return "<messages>"
    if "prompt" in body:
        return "<prompt>"
    tei = isinstance(body.get("inputs"), list) or not body.keys().isdisjoint(
        {"add_special_tokens", "prompt_name"}
    )
    return "<tei>" if tei else "<tgi>"


TokenizeBody = Annotated[
    Annotated[GenerateBody, Tag("<tgi>")]
    | Annotated[TeiTokenizeBody, Tag("<tei>")]
    | Annotated[PromptBody, Tag("<prompt>")]
    | Annotated[MessagesBody, Tag("<messages>")],
    Discriminator(_dialect),
]

ANSWER = [{"id": 11190, "text": "Paris", "start": 0, "stop": 5}]

router = APIRouter(tags=["tokenize"])


@router.post("/tokenize", summary="Split text into tokens", responses=example(ANSWER))
async def tokenize(body: TokenizeBody, request: Request, edge: EdgeOf) -> Response:
    """The tokens of `inputs` with their place in the text, in characters.

    Takes the bodies of TGI (`inputs`, a string), TEI (`inputs`, a list) and vLLM (`prompt` or `messages`),
    and answers each in its own shape. Without `model`, the first model's tokenizer is used.
    """
    return await unless_gone(request.receive, _answer(body, edge))


async def _answer(body: TokenizeBody, edge: Edge) -> Response:
    if isinstance(body, MessagesBody):
        return await _as_vllm_chat(body, edge)
    if isinstance(body, PromptBody):
        return await _as_vllm(body, body.prompt, edge.select_any(body.model), edge)
    card = edge.select_any(body.model)
    if isinstance(body, GenerateBody):
        return json_response([_tgi_token(span) for span in await _spans(body.inputs, card, edge)])
    texts = one_or_many(body.inputs)
    edge.limits.check_inputs(len(texts), "inputs")
    work = (_spans(text, card, edge, add_special_tokens=body.add_special_tokens) for text in texts)
    return json_response([[_tei_token(span) for span in spans] for spans in await every(work)])


async def _spans(
    text: str, card: ModelCard, edge: Edge, *, add_special_tokens: bool = True
) -> Sequence[TokenSpan]:
    if not text:
        raise EmptyInput("inputs")
    return await edge.engine.tokenize(text, model=card.name, add_special_tokens=add_special_tokens)


def _tgi_token(span: TokenSpan) -> dict[str, Any]:
    return {"id": span.id, "text": span.text, "start": span.start, "stop": span.stop}


def _tei_token(span: TokenSpan) -> dict[str, Any]:
    token = {"id": span.id, "text": span.text, "special": span.special}
    if span.special:
        return token | {"start": None, "stop": None}
    return token | {"start": span.start, "stop": span.stop}


async def _as_vllm_chat(body: MessagesBody, edge: Edge) -> Response:
    card = edge.select(Task.GENERATE, body.model)
    return await _as_vllm(body, await body.render(edge, card), card, edge)


async def _as_vllm(body: PromptBody | MessagesBody, text: str, card: ModelCard, edge: Edge) -> Response:
    spans = await edge.engine.tokenize(text, model=card.name, add_special_tokens=body.add_special_tokens)
    return json_response(
        {
            "count": len(spans),
            "max_model_len": card.max_tokens,
            "tokens": [span.id for span in spans],
            "token_strs": [span.text for span in spans] if body.return_token_strs else None,
        }
    )

"""`POST /summarize` and `/translate`: an encoder-decoder at its trade, in the shape of Hugging Face's tasks.

How it goes about it is what the model's folder says for the task, unless the request says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import ConfigDict, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from server.api.connection import every, unless_gone
from server.api.edge import Answer, Edge, EdgeOf, example, json_response
from server.api.fields import ModelName, StrictBody, Texts, Word, one_or_many
from server.api.folder_defaults import NOTHING, RewriteParameters, fill_in
from server.api.standing import StandingParameters
from server.api.tenant import TenantOf
from server.errors import EmptyInput, InvalidRequest, Overloaded
from server.request import FinishReason, GenerateRequest, ModelCard, Task
from server.text.generation_defaults import GenerationDefaults
from server.text.spelling import clean_up

OUTSIDE = ("priority", "timeout", "src_lang", "tgt_lang")

router = APIRouter(tags=["summarize and translate"])


class TaskParameters(StandingParameters):
    """What Hugging Face's task takes beside the text."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    generate_parameters: RewriteParameters | None = None
    """How the answer is generated, where it is not to be as the model's folder says."""
    truncation: Literal["do_not_truncate", "longest_first", "only_first", "only_second"] | None = None
    """Whether a text that is too long is cut at its end."""
    clean_up_tokenization_spaces: bool | None = None
    """Whether spaces before punctuation are taken back."""

    @model_validator(mode="before")
    @classmethod
    def _check_level(cls, given: Any) -> Any:
        """Say where a parameter belongs that stands one level too high, as in old examples of the tasks."""
        if not isinstance(given, dict):
            return given
        elsewhere = RewriteParameters.model_fields.keys() - cls.model_fields.keys() - {*OUTSIDE}
        for name in given:
            if name in elsewhere:
                message = "takes `{name}` in `generate_parameters`"
                raise PydanticCustomError("one_level_too_high", message, {"name": name})
        return given

    @property
    def truncates(self) -> bool:
        return self.truncation in ("longest_first", "only_first")


class TranslationParameters(TaskParameters):
    src_lang: Word | None = None
    """The language of the text, as the model's tokenizer names it."""
    tgt_lang: Word | None = None
    """The language to translate into."""


class SummarizeBody(StrictBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "A long text …"}]})

    inputs: Texts
    parameters: TaskParameters = TaskParameters()
    model: ModelName | None = None


class TranslateBody(StrictBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": "Hello.", "parameters": {"tgt_lang": "de"}}]}
    )

    inputs: Texts
    parameters: TranslationParameters = TranslationParameters()
    model: ModelName | None = None


@router.post("/summarize", summary="Summarize texts", responses=example([{"summary_text": "…"}]))
async def summarize(body: SummarizeBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """One summary for each text."""
    card = edge.select(Task.SUMMARIZE, body.model)
    defaults = edge.engine.generation_defaults(card.name).for_task("summarization")
    orders = _orders(body.inputs, body.parameters, edge, card, tenant, defaults)
    texts = await unless_gone(request.receive, _write(orders, body.parameters, edge))
    return json_response([{"summary_text": text} for text in texts])


@router.post("/translate", summary="Translate texts", responses=example([{"translation_text": "Hallo."}]))
async def translate(body: TranslateBody, request: Request, edge: EdgeOf, tenant: TenantOf) -> Response:
    """One translation for each text.

    `src_lang` and `tgt_lang` are languages of the model's tokenizer; of a model that was trained for pairs
    by name (T5), the two of a pair.
    """
    card = edge.select(Task.TRANSLATE, body.model)
    defaults, between = _languages(body.parameters, edge, card)
    orders = _orders(body.inputs, body.parameters, edge, card, tenant, defaults)
    orders = [replace(order, source_language=between[0], target_language=between[1]) for order in orders]
    texts = await unless_gone(request.receive, _write(orders, body.parameters, edge))
    return json_response([{"translation_text": text} for text in texts])


def _languages(
    parameters: TranslationParameters, edge: Edge, card: ModelCard
) -> tuple[GenerationDefaults, tuple[str | None, str | None]]:
    """The folder's defaults for the pair, and the languages to tell the tokenizer. Raises InvalidRequest."""
    source, target = parameters.src_lang, parameters.tgt_lang
    defaults = edge.engine.generation_defaults(card.name)
    if target is None and edge.engine.needs_target_language(card.name):
        raise InvalidRequest(
            "`tgt_lang` is needed: this model translates into several languages", parameter="tgt_lang"
        )
    if edge.engine.languages(card.name) or (source is None and target is None):
        return defaults.for_task("translation"), (source, target)
    task = f"translation_{source}_to_{target}"
    if task in defaults.tasks:
        return defaults.for_task(task), (None, None)
    pairs = ", ".join(name.removeprefix("translation_") for name in defaults.tasks if "_to_" in name)
    raise InvalidRequest(
        f"this model does not translate by `src_lang` and `tgt_lang`; its pairs: {pairs or 'none'}",
        parameter="tgt_lang" if source is None else "src_lang",
    )


def _orders(
    inputs: str | list[str],
    parameters: TaskParameters,
    edge: Edge,
    card: ModelCard,
    tenant: str,
    defaults: GenerationDefaults,
) -> list[GenerateRequest]:
    """One for each text. Raises InvalidRequest, EmptyInput and RequestTooLarge."""
    texts = one_or_many(inputs)
    edge.limits.check_inputs(len(texts), "inputs")
    if not all(texts):
        raise EmptyInput("inputs")
    asked = parameters.generate_parameters or NOTHING
    _check_places(asked)
    if asked.do_sample and asked.searches:
        raise InvalidRequest("`do_sample` and `num_beams` exclude each other", parameter="do_sample")
    chosen = fill_in(asked.in_new_tokens(), defaults, longest=card.max_tokens - 1)
    terms = parameters.terms(tenant, cache_salt=chosen.cache_salt)
    temperature = 1.0 if chosen.do_sample or chosen.narrows else 0.0
    orders = [
        replace(
            chosen.to_request(defaults.prefix + text, card, tenant=tenant, temperature=temperature),
            truncate=card.source_tokens if parameters.truncates else chosen.truncate,
            terms=terms,
        )
        for text in texts
    ]
    edge.limits.check_stop(orders[0].stop)
    edge.limits.check_cost(orders, card)
    return orders


def _check_places(asked: RewriteParameters) -> None:
    """Raises InvalidRequest for what is told beside `generate_parameters`, once for the whole request."""
    for name in OUTSIDE:
        if getattr(asked, name) is not None:
            raise InvalidRequest(
                f"`{name}` stands beside `generate_parameters`, not in it",
                parameter=f"parameters.generate_parameters.{name}",
            )


async def _write(orders: Sequence[GenerateRequest], parameters: TaskParameters, edge: Edge) -> list[str]:
    """Raises Overloaded where a deadline cut a text short: what is answered could not say so."""
    answers = await every(_whole(order, edge) for order in orders)
    texts = [answer.finish.text for answer in answers]
    return [clean_up(text) for text in texts] if parameters.clean_up_tokenization_spaces else texts


async def _whole(order: GenerateRequest, edge: Edge) -> Answer:
    answer = await edge.complete(order)
    if answer.finish.reason is FinishReason.TIMEOUT:
        raise Overloaded(0.0, "`timeout` passed before the text was complete")
    return answer

"""What `/generate` and `/generate_stream` are sent: TGI's body, with every parameter of this server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from server.api.fields import MAX_COUNT, Alternatives, ModelName, SampleCount, StrictBody, Text, only
from server.api.parameters import GenerationParameters
from server.api.samples import samples
from server.errors import EmptyInput, InvalidRequest
from server.request import GenerateRequest, Grammar, GrammarKind, ModelCard

EXAMPLE: dict[str, Any] = {
    "inputs": "The capital of France is",
    "parameters": {"max_new_tokens": 20, "temperature": 0.7, "seed": 42, "details": True},
}


class TgiGrammar(StrictBody):
    """TGI's three types, and two of ours: `choice`, a list of strings, and `ebnf`, in Lark's notation."""

    type: Literal["json", "json_object", "json_schema", "regex", "choice", "ebnf"]
    value: Any

    def to_grammar(self) -> Grammar:
        """Raises InvalidRequest unless `value` is what `type` needs."""
        match self.type:
            case "regex":
                return Grammar(kind=GrammarKind.REGEX, source=self._text())
            case "ebnf":
                return Grammar(kind=GrammarKind.EBNF, source=self._text())
            case "choice":
                return Grammar(kind=GrammarKind.CHOICE, source=_as_json(self._choices()))
            case _:
                return Grammar(kind=GrammarKind.JSON_SCHEMA, source=self._schema())

    def _text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise _invalid(f"`value` of type {self.type} must be a string that is not empty")
        return self.value

    def _choices(self) -> list[str]:
        value = self.value
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise _invalid("`value` of type choice must be a list of strings that is not empty")
        return value

    def _schema(self) -> str:
        """As text. `json` takes a schema or its text; `json_schema` takes one with a name, like OpenAI."""
        value = self.value
        if self.type == "json_schema":
            value = value.get("schema") if isinstance(value, dict) else None
        if isinstance(value, str):
            value = _parsed(value)
        if not isinstance(value, dict):
            shape = '{"schema": a JSON schema}' if self.type == "json_schema" else "a JSON schema"
            raise _invalid(f"`value` of type {self.type} must be {shape}, an object")
        return _as_json(value)


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"grammar is not valid: {why}", parameter="grammar")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid("`value` is not JSON") from None


def _as_json(value: Any) -> str:
    """Keys keep their order: it is the order in which they will be written."""
    try:
        return json.dumps(value)
    except RecursionError:
        raise _invalid("the JSON schema is nested too deeply") from None


class GenerateParameters(GenerationParameters):
    """TGI's parameters and all others. What is not there is refused unless it asks for nothing."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    do_sample: bool = False
    temperature: Annotated[float, Field(gt=0, le=100)] | None = None
    """Without one, the most probable token is taken unless another parameter asks for sampling."""
    top_k: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    best_of: SampleCount | None = None
    """How many texts to write, of which the one with the most probable tokens on average is the answer."""
    details: bool = False
    decoder_input_details: bool | None = None
    """Score the prompt: `details.prefill`. With `max_new_tokens` 0, do nothing else."""
    top_n_tokens: Alternatives | None = None
    """Tell the so many most probable tokens at each place: `details.top_tokens`."""
    return_full_text: bool | None = None
    """Begin the text with the prompt."""
    grammar: TgiGrammar | None = None
    """What the text must be."""
    receipt: bool = False
    """Tell what the text was made of, for `/v1/verify`."""

    watermark: Annotated[bool | None, only(False)] = False
    adapter_id: ModelName | None = None
    """The LoRA adapter to write with; its name as `model` means the same."""

    @property
    def sampled(self) -> bool:
        """TGI: `do_sample`, or any parameter that only makes sense with it."""
        return self.do_sample or self.temperature is not None or self.narrows

    @property
    def detailed(self) -> bool:
        """Details are told where they are asked for, or something that is told nowhere else."""
        return self.details or bool(self.decoder_input_details or self.top_n_tokens)

    @property
    def sample_count(self) -> int:
        return self.best_of or 1

    def check(self, *, stream: bool) -> None:
        """Raises InvalidRequest, in TGI's words, for what cannot go together."""
        if self.do_sample and self.searches:
            raise InvalidRequest("`do_sample` and `num_beams` exclude each other", parameter="do_sample")
        if self.sample_count > 1 and not self.sampled:
            raise InvalidRequest("you must use sampling when `best_of` is > 1", parameter="best_of")
        if self.max_new_tokens == 0 and not self.decoder_input_details:
            raise InvalidRequest(
                "`max_new_tokens` must be strictly positive, or 0 with `decoder_input_details`",
                parameter="max_new_tokens",
            )
        if stream:
            self._check_stream()

    def _check_stream(self) -> None:
        if self.sample_count > 1:
            raise InvalidRequest("`best_of` != 1 is not supported when streaming tokens", parameter="best_of")
        if self.decoder_input_details:
            raise InvalidRequest(
                "`decoder_input_details` == true is not supported when streaming tokens",
                parameter="decoder_input_details",
            )


SAMPLED = GenerateParameters.model_validate({"do_sample": True})


class GenerateBody(StrictBody):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    inputs: Text
    parameters: GenerateParameters | None = None
    stream: bool | None = None
    model: ModelName | None = None

    @property
    def chosen(self) -> GenerateParameters:
        """TGI samples when `parameters` is absent, and does not when it is empty."""
        return self.parameters or SAMPLED

    def to_requests(self, card: ModelCard, *, tenant: str, stream: bool) -> list[GenerateRequest]:
        """One for each sample of `best_of`.

        Raises EmptyInput, and InvalidRequest for what cannot go together or would cut nothing for `card`.
        """
        chosen = self.chosen
        if not self.inputs:
            raise EmptyInput("inputs")
        chosen.check(stream=stream)
        self._check_truncate(card)
        request = replace(
            chosen.to_request(self.inputs, card, tenant=tenant, temperature=1.0 if chosen.sampled else 0.0),
            alternatives=chosen.top_n_tokens or 0,
            prompt_alternatives=0 if chosen.decoder_input_details else None,
            grammar=chosen.grammar.to_grammar() if chosen.grammar else None,
        )
        return samples(request, chosen.sample_count)

    def _check_truncate(self, card: ModelCard) -> None:
        truncate, limit = self.chosen.truncate, card.source_tokens or card.max_tokens
        if truncate is not None and truncate >= limit:
            raise InvalidRequest(
                f"`truncate` must be strictly positive and less than {limit}. Given: {truncate}",
                parameter="truncate",
            )

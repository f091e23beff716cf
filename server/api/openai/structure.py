"""What the text must be: OpenAI's `response_format`, vLLM's `structured_outputs` and older `guided_...`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.fields import StrictBody, Text, Word, described, only
from server.errors import InvalidRequest
from server.request import Grammar, GrammarKind

ANY_OBJECT: dict[str, Any] = {"type": "object"}

Schema = dict[str, Any]
SchemaOrText = Annotated[Schema | Text, described("a JSON schema, as an object or as text")]
Choices = Annotated[list[Text], Field(min_length=1)]


class JsonSchemaFormat(StrictBody):
    """OpenAI's. The text obeys the schema whatever `strict` says; `name` and `description` change nothing."""

    name: Word | None = None
    description: Text | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictBody):
    """`value` is the schema as `huggingface_hub` sends it with `json_object`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    value: Schema | None = None

    def schema_of_text(self) -> Schema | None:
        """None where the text is free. Raises InvalidRequest unless exactly what `type` needs is there."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            needs = "needs" if self.type == "json_schema" else "has no use for"
            raise InvalidRequest(
                f"`response_format` of this type {needs} `json_schema`", parameter="response_format"
            )
        if self.value is not None and self.type != "json_object":
            raise InvalidRequest("`value` goes with the type json_object", parameter="response_format")
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema else self.value or ANY_OBJECT


class Structure(StrictBody):
    """vLLM's `structured_outputs`: exactly one of these."""

    json_: SchemaOrText | None = Field(None, alias="json")
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: bool | None = None
    structural_tag: Annotated[Any, only()] = None
    whitespace_pattern: Annotated[Any, only()] = None

    def grammars(self) -> list[Grammar]:
        """One for each that is given."""
        shapes = _grammars(schema=self.json_, regex=self.regex, choice=self.choice, ebnf=self.grammar)
        return [*shapes, *(_grammars(schema=ANY_OBJECT) if self.json_object else ())]


class StructuredBody(StrictBody):
    """The fields of a body that say what the text must be; at most one of them may."""

    response_format: ResponseFormat | None = None
    structured_outputs: Structure | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None

    def to_grammar(self) -> Grammar | None:
        """Raises InvalidRequest if more than one is given, or `structured_outputs` holds none."""
        structure = self.structured_outputs.grammars() if self.structured_outputs else []
        if self.structured_outputs and len(structure) != 1:
            raise InvalidRequest(
                "`structured_outputs` needs exactly one of json, regex, choice, grammar, json_object",
                parameter="structured_outputs",
            )
        grammars = [*structure, *self._guided(), *self._formats()]
        if len(grammars) > 1:
            raise InvalidRequest(
                "only one of `response_format`, `structured_outputs` and `guided_...` may shape the text",
                parameter="structured_outputs" if structure else "response_format",
            )
        return grammars[0] if grammars else None

    def _guided(self) -> list[Grammar]:
        return _grammars(
            schema=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            ebnf=self.guided_grammar,
        )

    def _formats(self) -> list[Grammar]:
        schema = self.response_format.schema_of_text() if self.response_format else None
        return _grammars(schema=schema)


def _grammars(
    *,
    schema: Schema | str | None = None,
    regex: str | None = None,
    choice: list[str] | None = None,
    ebnf: str | None = None,
) -> list[Grammar]:
    sources = {
        GrammarKind.JSON_SCHEMA: schema if schema is None or isinstance(schema, str) else _json(schema),
        GrammarKind.REGEX: regex,
        GrammarKind.CHOICE: None if choice is None else _json(choice),
        GrammarKind.EBNF: ebnf,
    }
    return [Grammar(kind=kind, source=source) for kind, source in sources.items() if source is not None]


def _json(value: Any) -> str:
    """Keys keep their order: it is the order in which they will be written."""
    try:
        return json.dumps(value)
    except RecursionError:
        raise InvalidRequest("the JSON schema is nested too deeply") from None

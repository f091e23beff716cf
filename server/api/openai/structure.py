"""What the text must be: OpenAI's `response_format`, vLLM's `structured_outputs` and older `guided_...`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.fields import StrictBody, Text, Word, described, only
from server.errors import InvalidRequest
from server.grammar import GrammarError, check
from server.request import Grammar, GrammarKind

ANY_OBJECT: dict[str, Any] = {"type": "object"}

Schema = dict[str, Any]
SchemaOrText = Annotated[Schema | Text, described("a JSON schema, as an object or as text")]


class JsonSchemaFormat(StrictBody):
    """OpenAI's. The text obeys the schema whatever `strict` says; `name` and `description` change nothing."""

    name: Word | None = None
    description: Text | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictBody):
    """OpenAI's; and TGI's `json` and `regex`, whose `value` is a schema or an expression.

    `huggingface_hub` sends a schema as the `value` of `json_object`.
    """

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: JsonSchemaFormat | None = None
    value: SchemaOrText | None = None

    def to_grammar(self) -> Grammar | None:
        """None where the text is free. Raises InvalidRequest unless exactly what `type` needs is there."""
        self._check()
        match self.type:
            case "text":
                return None
            case "json_schema":
                return _grammar(GrammarKind.JSON_SCHEMA, self.json_schema and self.json_schema.schema_)
            case "regex":
                return _grammar(GrammarKind.REGEX, self.value)
            case _:
                return _grammar(GrammarKind.JSON_SCHEMA, ANY_OBJECT if self.value is None else self.value)

    def _check(self) -> None:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise self._wrong("needs" if self.type == "json_schema" else "has no use for", "json_schema")
        if self.type in ("json", "regex") and self.value is None:
            raise self._wrong("needs", "value")
        if self.type in ("text", "json_schema") and self.value is not None:
            raise self._wrong("has no use for", "value")
        if self.type == "regex" and not isinstance(self.value, str):
            raise self._wrong("needs", "value", "as a string")

    def _wrong(self, relation: str, field: str, shape: str = "") -> InvalidRequest:
        return InvalidRequest(
            f"`response_format` of type {self.type} {relation} `{field}` {shape}".rstrip(),
            parameter="response_format",
        )


class Structure(StrictBody):
    """vLLM's `structured_outputs`: exactly one of these."""

    json_: SchemaOrText | None = Field(None, alias="json")
    regex: Text | None = None
    choice: list[Text] | None = None
    grammar: Text | None = None
    json_object: bool | None = None
    structural_tag: Annotated[Any, only()] = None
    whitespace_pattern: Annotated[Any, only()] = None

    def to_grammar(self) -> Grammar:
        """Raises InvalidRequest unless there is exactly one."""
        asked = (
            _grammar(GrammarKind.JSON_SCHEMA, self.json_),
            _grammar(GrammarKind.REGEX, self.regex),
            _grammar(GrammarKind.CHOICE, self.choice),
            _grammar(GrammarKind.EBNF, self.grammar),
            _grammar(GrammarKind.JSON_SCHEMA, ANY_OBJECT if self.json_object else None),
        )
        given = [grammar for grammar in asked if grammar is not None]
        if len(given) != 1:
            raise InvalidRequest(
                "`structured_outputs` needs exactly one of json, regex, choice, grammar, json_object",
                parameter="structured_outputs",
            )
        return given[0]


class StructuredBody(StrictBody):
    """The fields of a body that say what the text must be; at most one of them may."""

    response_format: ResponseFormat | None = None
    structured_outputs: Structure | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: Text | None = None
    guided_choice: list[Text] | None = None
    guided_grammar: Text | None = None
    """In the notation of Lark."""

    def to_grammar(self) -> Grammar | None:
        """None where the text is free. Raises InvalidRequest, naming the field that cannot be followed."""
        given = self._grammars()
        if len(given) > 1:
            raise InvalidRequest(f"{_listed(given)} exclude each other", parameter=next(iter(given)))
        for grammar in given.values():
            with self.naming_the_grammar():
                check(grammar)
        return next(iter(given.values()), None)

    @contextmanager
    def naming_the_grammar(self) -> Iterator[None]:
        """What is wrong with the `grammar` of a request is wrong with the field that it was given in."""
        try:
            yield
        except InvalidRequest as error:
            if error.parameter != "grammar":
                raise
            name = next(iter(self._grammars()))
            raise GrammarError(f"`{name}`: {error}", parameter=name) from None

    def _grammars(self) -> dict[str, Grammar]:
        """By the names of their fields."""
        asked = {
            "response_format": self.response_format.to_grammar() if self.response_format else None,
            "structured_outputs": self.structured_outputs.to_grammar() if self.structured_outputs else None,
            "guided_json": _grammar(GrammarKind.JSON_SCHEMA, self.guided_json),
            "guided_regex": _grammar(GrammarKind.REGEX, self.guided_regex),
            "guided_choice": _grammar(GrammarKind.CHOICE, self.guided_choice),
            "guided_grammar": _grammar(GrammarKind.EBNF, self.guided_grammar),
        }
        return {name: grammar for name, grammar in asked.items() if grammar is not None}


def _grammar(kind: GrammarKind, source: Any) -> Grammar | None:
    """`source` may be the JSON of a schema or of choices, whose order is kept: it is that of the text."""
    if source is None:
        return None
    try:
        return Grammar(kind=kind, source=source if isinstance(source, str) else json.dumps(source))
    except RecursionError:
        raise InvalidRequest("the JSON schema is nested too deeply") from None


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)

"""What the text must be, in every spelling that OpenAI's and vLLM's clients have for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from httpx import AsyncClient

from server.errors import InvalidRequest
from server.grammar import GrammarError
from server.request import GenerateRequest, Grammar, GrammarKind
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
}
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


def nested(depth: int) -> dict[str, Any]:
    return {"not": nested(depth - 1)} if depth else {}


def schema(source: object) -> Grammar:
    return Grammar(kind=GrammarKind.JSON_SCHEMA, source=json.dumps(source))


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("extra", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, schema({"type": "object"})),
        ({"response_format": {"type": "json_object", "value": SCHEMA}}, schema(SCHEMA)),
        ({"response_format": {"type": "json", "value": SCHEMA}}, schema(SCHEMA)),
        ({"response_format": {"type": "json", "value": json.dumps(SCHEMA)}}, schema(SCHEMA)),
        (
            {"response_format": {"type": "regex", "value": "[0-9]+"}},
            Grammar(kind=GrammarKind.REGEX, source="[0-9]+"),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            schema(SCHEMA),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, schema(SCHEMA)),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, schema(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, schema({"type": "object"})),
        ({"structured_outputs": {"regex": "a+"}}, Grammar(kind=GrammarKind.REGEX, source="a+")),
        (
            {"structured_outputs": {"choice": ["a", "é"]}},
            Grammar(kind=GrammarKind.CHOICE, source='["a", "\\u00e9"]'),
        ),
        (
            {"structured_outputs": {"grammar": 'start: "a"'}},
            Grammar(kind=GrammarKind.EBNF, source='start: "a"'),
        ),
        ({"guided_json": SCHEMA}, schema(SCHEMA)),
        ({"guided_regex": "a+"}, Grammar(kind=GrammarKind.REGEX, source="a+")),
        ({"guided_choice": ["a"]}, Grammar(kind=GrammarKind.CHOICE, source='["a"]')),
        ({"guided_grammar": "start: /a/"}, Grammar(kind=GrammarKind.EBNF, source="start: /a/")),
        ({"guided_json": None, "response_format": None}, None),
    ],
)
async def test_every_spelling_becomes_a_grammar(
    client: AsyncClient, engine: FakeEngine, path: str, extra: dict[str, Any], grammar: Grammar | None
) -> None:
    response = await client.post(path, json=ROUTES[path] | extra)
    assert response.status_code == 200, response.text
    (request,) = engine.asked
    assert isinstance(request, GenerateRequest)
    assert request.grammar == grammar


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ({"response_format": {"type": "poem"}}, "`response_format.type`"),
        ({"response_format": {"type": "json_schema"}}, "needs `json_schema`"),
        (
            {"response_format": {"type": "text", "json_schema": {"schema": SCHEMA}}},
            "has no use for `json_schema`",
        ),
        ({"response_format": {"type": "text", "value": SCHEMA}}, "of type text has no use for `value`"),
        ({"response_format": {"type": "json"}}, "of type json needs `value`"),
        ({"response_format": {"type": "regex"}}, "of type regex needs `value`"),
        ({"response_format": {"type": "regex", "value": SCHEMA}}, "needs `value` as a string"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema` is required"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, "schema`"),
        ({"structured_outputs": {}}, "exactly one of json, regex, choice, grammar, json_object"),
        ({"structured_outputs": {"regex": "a", "json_object": True}}, "exactly one of"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag` is not supported yet"),
        ({"structured_outputs": {"choice": []}}, "`structured_outputs`: there must be 1 to"),
        ({"guided_choice": []}, "`guided_choice`: there must be 1 to"),
        ({"guided_json": "{"}, "`guided_json`: "),
        ({"guided_json": "[]"}, "`guided_json`: a JSON schema must be a JSON object"),
        ({"guided_regex": "(" * 100}, "`guided_regex`: "),
        ({"guided_grammar": "x" * 70_000}, "`guided_grammar`: "),
        ({"response_format": {"type": "json_object", "value": nested(200)}}, "`response_format`: "),
        ({"structured_outputs": {"colour": "red"}}, "unknown field `structured_outputs.colour`"),
        ({"guided_json": 5}, "`guided_json` must be a JSON schema, as an object or as text"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "`guided_regex` and `guided_choice` exclude"),
        (
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "`response_format` and `guided_regex` exclude each other",
        ),
    ],
)
async def test_a_bad_wish_is_named(
    client: AsyncClient, engine: FakeEngine, extra: dict[str, Any], name: str
) -> None:
    response = await client.post("/v1/chat/completions", json=ROUTES["/v1/chat/completions"] | extra)
    assert response.status_code == 400
    assert name in response.json()["error"]["message"]
    assert not engine.asked


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "wish"),
    [
        ("guided_regex", "(?<=a)b"),
        ("structured_outputs", {"regex": "(?<=a)b"}),
        ("response_format", {"type": "regex", "value": "(?<=a)b"}),
    ],
)
async def test_what_no_compiler_takes_is_refused_by_the_name_of_its_field(
    client: AsyncClient, engine: FakeEngine, path: str, stream: bool, field: str, wish: Any
) -> None:
    engine.refusal = GrammarError("the grammar cannot be compiled: no look-behind")
    response = await client.post(path, json=ROUTES[path] | {"stream": stream, field: wish})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert error["message"] == f"`{field}`: the grammar cannot be compiled: no look-behind"


async def test_other_refusals_of_a_structured_request_keep_their_names(
    client: AsyncClient, engine: FakeEngine
) -> None:
    engine.refusal = InvalidRequest("`timeout` passed before the text's turn", parameter="timeout")
    response = await client.post("/v1/completions", json={"prompt": "a", "guided_regex": "a"})
    assert response.json()["error"]["param"] == "timeout"

"""What is refused from a grammar's source alone, with a sentence that says why."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from server.grammar import MAX_BYTES, MAX_CHOICES, MAX_DEPTH, GrammarError, check
from server.request import Grammar, GrammarKind

JSON, REGEX, CHOICE, EBNF = (
    GrammarKind.JSON_SCHEMA,
    GrammarKind.REGEX,
    GrammarKind.CHOICE,
    GrammarKind.EBNF,
)


def nested(depth: int) -> str:
    return '{"items": ' * (depth - 1) + "{}" + "}" * (depth - 1)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (JSON, '{"type": "object"}'),
        (JSON, json.dumps({"const": "[" * 1000 + '\\"{'})),
        (JSON, nested(MAX_DEPTH)),
        (REGEX, r"\((\(|[(\]]|[](]|[^](]){3}" + r"\[" * 500),
        (REGEX, "(" * MAX_DEPTH + ")" * MAX_DEPTH),
        (REGEX, "a" * MAX_BYTES),
        (CHOICE, '["yes", "", "[[[", "日本"]'),
        (CHOICE, json.dumps([str(i) for i in range(MAX_CHOICES)])),
        (EBNF, 'start: "<|im_end|>" | /<[^<>]+>/ // <|comment|> %llguidance'),
        (EBNF, 'start: "\\"((((" | /\\/[(((]/'),
    ],
)
def test_a_grammar_within_the_bounds_passes(kind: GrammarKind, source: str) -> None:
    check(Grammar(kind=kind, source=source))


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        (JSON, "  ", "cannot be empty"),
        (REGEX, "a" * (MAX_BYTES + 1), f"at most {MAX_BYTES} bytes. Given: {MAX_BYTES + 1}"),
        (REGEX, "é" * (MAX_BYTES // 2 + 1), f"at most {MAX_BYTES} bytes"),
        (REGEX, "a\ud800", "no Unicode"),
        (JSON, nested(MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
        (JSON, "[" * 60_000, f"deeper than {MAX_DEPTH}"),
        (REGEX, "(" * 65 + ")" * 65, f"deeper than {MAX_DEPTH}"),
        (EBNF, "start: " + "(" * 65 + '"a"' + ")" * 65, f"deeper than {MAX_DEPTH}"),
        (JSON, '{"type": ', "the JSON schema is not JSON: Expecting value at line 1 column 10"),
        (JSON, '{"const": NaN}', "NaN is not JSON"),
        (JSON, '{"const": ' + "1" * 5000 + "}", "too long"),
        (JSON, '["object"]', "must be a JSON object"),
        (JSON, "true", "must be a JSON object"),
        (CHOICE, "yes", "the list of choices is not JSON"),
        (CHOICE, '{"a": 1}', "JSON list of strings"),
        (CHOICE, '["a", 1]', "JSON list of strings"),
        (CHOICE, "[]", "there must be 1 to"),
        (CHOICE, json.dumps([""] * (MAX_CHOICES + 1)), f"Given: {MAX_CHOICES + 1}"),
        (CHOICE, '["\\ud800"]', "no Unicode"),
        (EBNF, 'start: "a" <|im_end|>', "angle brackets"),
        (EBNF, "start: <[*]>", "angle brackets"),
        (EBNF, '%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "%llguidance"),
    ],
)
def test_what_is_refused_is_named(kind: GrammarKind, source: str, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        check(Grammar(kind=kind, source=source))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 120
    assert caught.value.parameter == "grammar"


@pytest.mark.parametrize("kind", list(GrammarKind))
@pytest.mark.parametrize("pattern", ["[", "(", '"', "/", "\\", '"\\', "[\\", "<", "/\\", "#", "[]", "a"])
def test_no_source_takes_long(kind: GrammarKind, pattern: str) -> None:
    started = time.process_time()
    with suppress(GrammarError):
        check(Grammar(kind=kind, source=pattern * (MAX_BYTES // len(pattern))))
    assert time.process_time() - started < 1  # ten milliseconds; minutes if it were quadratic


def test_checking_takes_neither_torch_nor_a_compiler() -> None:
    code = "import sys, server.grammar; sys.exit(bool({'torch', 'llguidance'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

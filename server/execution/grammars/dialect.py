"""Our four kinds of grammar as llguidance writes them, and its complaints as sentences."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from server.grammar import GrammarError, choices
from server.request import Grammar, GrammarKind

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

# A text that the grammar forces may be spelled by any tokens, not by those alone that a tokenizer would
# choose: the model knows best, and what is allowed is then a matter of bytes only.
_HEADER = '%llguidance {"no_forcing": true}\n'

# Between two signs of JSON at most a space, or a line break and its indentation: a model that may write
# blanks without end sometimes does. None before the first sign or after the last.
_BLANKS: JsonCompileOptions = {"whitespace_flexible": True, "whitespace_pattern": r" |\n[ ]{0,32}|\n\t{0,8}"}

MAX_REASON = 200  # characters

# Complaints that name what llguidance has inside, as what is wrong with the grammar.
_MEANINGS = {
    "NoExtension": "no text of this model's tokens matches it",
    "oneOf constraints": "more than one alternative of a `oneOf` might match; `anyOf` would do",
    "panic": "it means nothing that can be compiled",
    "too many expressions": "it is too complex",
    "fuel exhausted": "it is too complex",
    "too big": "it is too complex",
    "too large": "it is too complex",
    "Too many items": "it is too complex",
    "row has": "it is too complex",
}


def written(grammar: Grammar) -> str:
    """The grammar in llguidance's own notation. Raises GrammarError for one that is not even JSON."""
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return _schema(grammar.source)
        case GrammarKind.REGEX:
            return _HEADER + _regex(grammar.source)
        case GrammarKind.CHOICE:
            return f"{_HEADER}start: {' | '.join(json.dumps(choice) for choice in choices(grammar))}"
        case GrammarKind.EBNF:
            return _HEADER + grammar.source


def parse(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    """At the beginning of a text. Raises GrammarError in the caller's terms, also if no token begins one."""
    from llguidance import LLMatcher

    parser = LLMatcher(tokenizer, written(grammar), log_level=0, limits=_limits())
    parser.compute_bitmask()  # what this finds out stays in every copy: a text's first step is no slower
    if parser.is_error():
        raise uncompiled(parser.get_error(), grammar.kind)
    return parser


def uncompiled(message: str, kind: GrammarKind) -> GrammarError:
    """llguidance's complaint as ours."""
    return GrammarError(f"the grammar cannot be compiled: {reason(message, kind)}")


def reason(message: str, kind: GrammarKind) -> str:
    """What llguidance complains of, in half a sentence and without its pictures of the source."""
    for sign, meaning in _MEANINGS.items():
        if sign in message:
            return meaning
    pointed = re.search(r"^error: (.+)$", message, re.MULTILINE)  # of Rust's regex parser
    found = pointed[1] if pointed else next(iter(message.strip().splitlines()), "it means nothing")
    if kind is not GrammarKind.EBNF:
        found = re.sub(r"^at \d+\(\d+\): ", "", found)  # a place in what we wrote, not in the source
    found = re.sub(r'invalid regex ".*" \(in regex\): ', "", found)
    found = re.sub(r"^(?:at )?(\d+)\((\d+)\): ", _place, found)
    return found if len(found) <= MAX_REASON else found[: MAX_REASON - 1] + "…"


def _place(match: re.Match[str]) -> str:
    """Counted from the caller's first line: ours is the one before."""
    return f"line {int(match[1]) - _HEADER.count(chr(10))} column {match[2]}: "


def _schema(source: str) -> str:
    from llguidance import LLMatcher

    try:
        wrapped = json.loads(LLMatcher.grammar_from_json_schema(source, overrides=_BLANKS))
    except ValueError as error:
        raise uncompiled(str(error), GrammarKind.JSON_SCHEMA) from error
    schema = {"name": "json", "json_schema": wrapped["grammars"][0]["json_schema"]}
    return json.dumps({"grammars": [{"lark_grammar": f"{_HEADER}start: @json"}, schema]})


def _regex(source: str) -> str:
    from llguidance import LLMatcher

    lark: str = json.loads(LLMatcher.grammar_from_regex(source))["grammars"][0]["lark_grammar"]
    return lark


def _limits() -> LLParserLimits:
    """Its bounds on the work of a step, about 15 ms, are as llguidance has them; its errors tell less."""
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False)

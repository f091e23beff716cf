"""What may be asked of a grammar, told from its source alone: in any process, in a millisecond.

What is too large, too deep or not even JSON goes no further. Whether the rest means anything, and can be
compiled at all, is found out beside the model (`execution.grammars`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from server.errors import InvalidRequest
from server.request import Grammar, GrammarKind

MAX_BYTES = 1 << 16  # of a source, in UTF-8
MAX_DEPTH = 64  # of brackets within brackets; a property of a JSON schema takes two
MAX_CHOICES = 4096

# What brackets may stand in without being any. The end of each is optional: a search that fails only where
# the source ends would start again one character on, and take time by the square.
_STRING = r'"(?:[^"\\\n]|\\.)*"?'
_ESCAPE = r"\\."
_CLASS = r"\[\^?\]?(?:[^\]\\]|\\.)*\]?"
_QUOTED = {
    GrammarKind.JSON_SCHEMA: re.compile(_STRING),
    GrammarKind.CHOICE: re.compile(_STRING),
    GrammarKind.REGEX: re.compile(rf"{_ESCAPE}|{_CLASS}", re.DOTALL),
    GrammarKind.EBNF: re.compile(rf"(?://|#)[^\n]*|{_STRING}|/(?:[^/\\]|{_ESCAPE})+/?"),
}


class GrammarError(InvalidRequest):
    """The grammar cannot be followed; the message says what is wrong with it, in one sentence."""

    def __init__(self, message: str, *, parameter: str = "grammar") -> None:
        super().__init__(message, parameter=parameter)


def check(grammar: Grammar) -> None:
    """Refuse what no compiler need see. Raises GrammarError naming the bound, or what is malformed."""
    _check_size(grammar.source)
    _check_depth(grammar)
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            if not isinstance(_json(grammar.source, "JSON schema"), dict):
                raise GrammarError("a JSON schema must be a JSON object")
        case GrammarKind.CHOICE:
            choices(grammar)
        case GrammarKind.EBNF:
            _check_rules(grammar)
        case GrammarKind.REGEX:
            pass  # only a compiler can tell


def choices(grammar: Grammar) -> list[str]:
    """The strings to choose from. Raises GrammarError for what is no list of strings, or too long a one."""
    listed = _json(grammar.source, "list of choices")
    if not isinstance(listed, list) or not all(isinstance(choice, str) for choice in listed):
        raise GrammarError("choices must be a JSON list of strings")
    if not 1 <= len(listed) <= MAX_CHOICES:
        raise GrammarError(f"there must be 1 to {MAX_CHOICES} choices. Given: {len(listed)}")
    for choice in listed:
        _bytes(choice)
    return listed


def _check_size(source: str) -> None:
    size = len(_bytes(source))
    if not source.strip():
        raise GrammarError("the grammar cannot be empty")
    if size > MAX_BYTES:
        raise GrammarError(f"the grammar must have at most {MAX_BYTES} bytes. Given: {size}")


def _check_rules(grammar: Grammar) -> None:
    """What llguidance adds to Lark, its options and tokens by name or number, is not the caller's to use."""
    rules = _bare(grammar)
    if "%llguidance" in rules:
        raise GrammarError("the directive `%llguidance` cannot be used")
    if re.search(r"<[^<>\s]+>", rules):
        raise GrammarError("tokens in angle brackets cannot be used: a text consists of characters")


def _bare(grammar: Grammar) -> str:
    return _QUOTED[grammar.kind].sub(" ", grammar.source)


def _check_depth(grammar: Grammar) -> None:
    depth = 0
    for bracket in re.findall(r"[\[{(\]})]", _bare(grammar)):
        depth = depth + 1 if bracket in "[{(" else max(depth - 1, 0)
        if depth > MAX_DEPTH:
            raise GrammarError(f"the grammar must not nest brackets deeper than {MAX_DEPTH}")


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, as JSON can spell it
        raise GrammarError("the grammar has characters that are no Unicode") from error


def _json(source: str, what: str) -> Any:
    try:
        return json.loads(source, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise GrammarError(
            f"the {what} is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error
    except ValueError as error:  # an integer of thousands of digits
        raise GrammarError(f"the {what} has a number that is too long") from error


def _refuse_constant(name: str) -> None:
    raise GrammarError(f"{name} is not JSON")

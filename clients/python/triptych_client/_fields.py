"""JSON, read with care: an answer of another shape says so here instead of failing somewhere else."""

from __future__ import annotations

import json
from typing import Any

from triptych_client._errors import UnexpectedAnswer

Kind = type[Any] | tuple[type[Any], ...]


def parse_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise UnexpectedAnswer(f"expected JSON from the server, found {excerpt(text)}") from None


def field(answer: Any, name: str, kind: Kind) -> Any:
    if not isinstance(answer, dict) or not isinstance(answer.get(name), kind):
        raise unlike(f"an object with `{name}`", answer)
    return answer[name]


def optional(answer: Any, name: str, kind: Kind) -> Any:
    if isinstance(answer, dict) and answer.get(name) is None:
        return None
    return field(answer, name, kind)


def first(items: list[Any], name: str) -> Any:
    if not items:
        raise UnexpectedAnswer(f"expected something in `{name}`, found an empty list")
    return items[0]


def unlike(expected: str, answer: Any) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"expected {expected} from the server, found {excerpt(json.dumps(answer))}")


def excerpt(text: str | bytes) -> str:
    whole = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    return whole if len(whole) <= 200 else f"{whole[:200]}…"

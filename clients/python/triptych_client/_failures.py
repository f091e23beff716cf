"""What a server means by no: error bodies of every dialect, read into the tree of `_errors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from triptych_client._errors import (
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    RequestFailed,
    ServerFailed,
    Unauthorized,
    UnexpectedAnswer,
)
from triptych_client._fields import excerpt

Headers = Mapping[str, str]  # looked up in lower case

ERRORS: Mapping[int, type[RequestFailed]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    405: InvalidRequest,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: Overloaded,
    503: NotReady,
}
# Inside a stream there is no status; the name of the error stands for it.
STATUS_OF_KIND = {"validation": 422, "overloaded": 429, "generation": 424, "incomplete_generation": 500}


def error_of(status: int, content: bytes, headers: Headers) -> Exception:
    """The error that an answer other than 2xx stands for."""
    if status < 400:
        target = headers.get("location", "elsewhere")
        return UnexpectedAnswer(f"the server answered {status} and points to {target}; is base_url right?")
    try:
        answer = json.loads(content)
    except ValueError:
        answer = {"error": excerpt(content) if content else f"HTTP status {status}, without a word"}
    return read_error(answer, status=status, headers=headers)


def read_error(answer: Any, *, status: int | None = None, headers: Headers | None = None) -> RequestFailed:
    """The error that a body, or an event of a stream, stands for.

    TGI and TEI write `{"error": "…", "error_type": "…"}`, OpenAI `{"error": {"message", "type", "param",
    "code"}}`; whatever else it is becomes the message as it stands.
    """
    error = _flattened(answer)
    kind, parameter = (value if isinstance(value, str) else None for value in (error["type"], error["param"]))
    leaf = ERRORS.get(status or _status_inside(error, kind), ServerFailed)
    failure = leaf(str(error["message"]), status=status, kind=kind, parameter=parameter)
    if isinstance(failure, Overloaded):
        failure.retry_after_s = _retry_after_s(headers or {})
    return failure


def _flattened(answer: Any) -> dict[str, Any]:
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    kind = answer.get("error_type") if isinstance(answer, dict) else None
    return {"message": error, "type": kind, "param": None, **(error if isinstance(error, dict) else {})}


def _status_inside(error: Mapping[str, Any], kind: str | None) -> int:
    codes = (error.get("http_status_code"), error.get("code"))
    known = [code for code in codes if isinstance(code, int)]
    return known[0] if known else STATUS_OF_KIND.get(kind or "", 500)


def _retry_after_s(headers: Headers) -> float | None:
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if value.replace(".", "", 1).isdecimal():
            return float(value) * unit_s
    return None

"""Where what went wrong meets HTTP: one table for each dialect, from the tree to a status and a body.

| dialect | routes | body |
|---|---|---|
| TGI | `/generate`, `/fill-mask`, `/tokenize` and all that belong to no other | `{"error", "error_type"}` |
| TEI | `/embed` | the same, `error_type` capitalised |
| OpenAI | `/v1/...` | `{"error": {"message", "type", "param", "code"}}` |
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.api.connection import ClientGone
from server.api.fields import SAME_AS
from server.errors import (
    ContextTooLong,
    EmptyInput,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    NotEnabled,
    NotReady,
    Overloaded,
    ServerError,
    TaskUnavailable,
)

log = logging.getLogger(__name__)

MAX_PROBLEMS = 3  # named in one message; five thousand bad fields must not make five thousand lines
MAX_NAME = 80  # characters of a field name: unknown names are the caller's input
MAX_MESSAGE = 1000

CLIENT_GONE = 499  # as nginx logs it; nobody reads it


class MalformedBody(InvalidRequest):
    """The body could not be read as what the route takes."""


class UnsupportedMediaType(ServerError):
    """The body is not declared to be JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one kind of error is in one dialect. `{}` in `message` stands for the error's own sentence."""

    status: int
    kind: str
    message: str = "{}"


Table = Mapping[type[Exception], Row]

TGI: Table = {
    InvalidRequest: Row(status=422, kind="validation", message="Input validation error: {}"),
    UnsupportedMediaType: Row(status=415, kind="validation"),
    ModelNotFound: Row(status=404, kind="not_found"),
    TaskUnavailable: Row(status=404, kind="not_found"),
    NotEnabled: Row(status=403, kind="forbidden"),
    Overloaded: Row(status=429, kind="overloaded"),
    NotReady: Row(status=503, kind="healthcheck"),
    EngineFailed: Row(status=424, kind="generation", message="Request failed during generation: {}"),
    Exception: Row(status=500, kind="internal", message="Internal error"),
}

TEI: Table = {
    EmptyInput: Row(status=400, kind="Empty"),
    InvalidRequest: Row(status=422, kind="Validation"),
    UnsupportedMediaType: Row(status=415, kind="Validation"),
    ModelNotFound: Row(status=404, kind="NotFound"),
    TaskUnavailable: Row(status=404, kind="NotFound"),
    NotEnabled: Row(status=403, kind="Forbidden"),
    Overloaded: Row(status=429, kind="Overloaded"),
    NotReady: Row(status=503, kind="Unhealthy"),
    EngineFailed: Row(status=424, kind="Backend"),
    Exception: Row(status=500, kind="Internal", message="Internal error"),
}

OPENAI: Table = {
    InvalidRequest: Row(status=400, kind="BadRequestError"),
    UnsupportedMediaType: Row(status=415, kind="BadRequestError"),
    ModelNotFound: Row(status=404, kind="NotFoundError"),
    TaskUnavailable: Row(status=404, kind="NotFoundError"),
    NotEnabled: Row(status=403, kind="PermissionDeniedError"),
    Overloaded: Row(status=429, kind="RateLimitError"),
    NotReady: Row(status=503, kind="ServiceUnavailableError"),
    EngineFailed: Row(status=500, kind="InternalServerError"),
    Exception: Row(status=500, kind="InternalServerError", message="Internal error"),
}

HTTP_KINDS = {404: "not_found", 405: "method_not_allowed", 413: "validation"}
TEI_HTTP_KINDS = {404: "NotFound", 405: "MethodNotAllowed", 413: "Validation"}
OPENAI_HTTP_KINDS = {404: "NotFoundError"}

OPENAI_INPUTS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
}
"""What each OpenAI route calls the text that the engine's errors call `inputs`."""


def look_up(table: Table, error: Exception) -> Row:
    """The row of the nearest class."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


def _message(row: Row, error: Exception) -> str:
    return row.message.replace("{}", str(error))[:MAX_MESSAGE]


def tgi_body(error: Exception) -> dict[str, Any]:
    """`{"error", "error_type"}`, as TGI and its clients know it; also the event that breaks a TGI stream."""
    return _flat_body(look_up(TGI, error), error)


def openai_body(error: Exception, path: str) -> dict[str, Any]:
    """`{"error": {...}}` in the names of the route at `path`; also the event that breaks its stream."""
    row = look_up(OPENAI, error)
    parameter = error.parameter if isinstance(error, InvalidRequest) else None
    message = _message(row, error)
    if path in OPENAI_INPUTS:
        message = _openai_message(error, message, OPENAI_INPUTS[path])
        renamed = {
            "inputs": OPENAI_INPUTS[path],
            "max_new_tokens": "max_tokens",
            "decoder_input_details": "echo",
        }
        parameter = renamed.get(parameter or "", parameter)
    return {"error": {"message": message, "type": row.kind, "param": parameter, "code": row.status}}


def _openai_message(error: Exception, message: str, inputs: str) -> str:
    # Client libraries recognise an overlong prompt by these very words.
    if isinstance(error, ContextTooLong):
        asked = error.tokens + (error.new_tokens or 0)
        return (
            f"This model's maximum context length is {error.limit} tokens. However, you requested "
            f"{asked} tokens ({error.tokens} in the {inputs}, {error.new_tokens or 0} in the completion)."
        )
    return message.replace("`inputs`", f"`{inputs}`").replace("`max_new_tokens`", "`max_tokens`")


def _flat_body(row: Row, error: Exception) -> dict[str, Any]:
    return {"error": _message(row, error), "error_type": row.kind}


def _is_openai(path: str) -> bool:
    return path.startswith("/v1/")


def respond(request: Request, error: Exception) -> Response:
    """The error as a response, in the dialect of the path that was asked."""
    path = request.url.path
    if _is_openai(path):
        return _json(look_up(OPENAI, error).status, openai_body(error, path), _retry(error))
    row = look_up(TEI if path == "/embed" else TGI, error)
    return _json(row.status, _flat_body(row, error), _retry(error))


def _retry(error: Exception) -> dict[str, str]:
    """When to come back, in whole seconds for everyone and in milliseconds for the OpenAI SDKs."""
    if not isinstance(error, Overloaded):
        return {}
    return {
        "Retry-After": str(max(1, math.ceil(error.retry_after_s))),
        "retry-after-ms": str(math.ceil(error.retry_after_s * 1000)),
    }


def _json(status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def respond_http(request: Request, error: HTTPException) -> Response:
    """What the framework refuses by itself: no such route, not with this method, too large a body."""
    path, status = request.url.path, error.status_code
    message = {
        404: "there is no such route; `/docs` lists them",
        405: f"this route does not take {request.method}",
        400: "the body could not be read",
    }.get(status, error.detail)
    if _is_openai(path):
        kind = OPENAI_HTTP_KINDS.get(status, "BadRequestError")
        openai = {"message": message, "type": kind, "param": None, "code": status}
        return _json(status, {"error": openai}, error.headers)
    if path == "/embed":
        kind = TEI_HTTP_KINDS.get(status, "Validation")
    else:
        kind = HTTP_KINDS.get(status, "validation")
    return _json(status, {"error": message, "error_type": kind}, error.headers)


def respond_invalid(request: Request, error: RequestValidationError) -> Response:
    """A body that pydantic refused."""
    if not _declares_json(request):
        return respond(request, UnsupportedMediaType("send the body as `Content-Type: application/json`"))
    return respond(request, _in_words(error.errors()))


def _declares_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def _in_words(problems: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """Pydantic's findings as one sentence that names every field and repeats no value."""
    sentences = [_sentence(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        sentences.append(f"and {len(problems) - MAX_PROBLEMS} more")
    return MalformedBody("; ".join(sentences), parameter=_path(problems[0]) or None)


def _sentence(problem: Mapping[str, Any]) -> str:
    name = f"`{_path(problem)}`" if _path(problem) else "the body"
    words = WORDS.get(problem["type"])
    if words is not None:
        return words(name, problem.get("ctx", {}))
    message = str(problem["msg"])
    if message.startswith("Input should be "):
        return f"{name} must be {message.removeprefix('Input should be ')}"
    return f"{name} {message[:1].lower()}{message[1:]}"


def _path(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "json_invalid":  # its location is an offset into the text
        return ""
    steps = [str(step) for step in problem["loc"][1:] if str(step)[:1] != "<"]  # "<...>": a union's tag
    return "".join(c if c.isprintable() and c != "`" else "?" for c in ".".join(steps)[:MAX_NAME])


def _unknown(name: str, _: Mapping[str, Any]) -> str:
    canonical = SAME_AS.get(name.strip("`").rpartition(".")[2])
    if canonical is not None:
        return f"{name} is another name of a parameter that is given too (`{canonical}`)"
    return f"unknown field {name}"


def _above(name: str, ctx: Mapping[str, Any]) -> str:
    return f"{name} must be strictly positive" if ctx["gt"] == 0 else f"{name} must be > {ctx['gt']}"


def _at_least(name: str, ctx: Mapping[str, Any]) -> str:
    """Of whole numbers at least 1, TGI says that they must be strictly positive."""
    counts = ctx["ge"] == 1 and isinstance(ctx["ge"], int)
    return f"{name} must be strictly positive" if counts else f"{name} must be >= {ctx['ge']:g}"


WORDS: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    "missing": lambda name, _: f"{name} is required",
    "extra_forbidden": _unknown,
    "json_invalid": lambda name, ctx: f"{name} is not valid JSON: {ctx.get('error', 'it cannot be read')}",
    "model_attributes_type": lambda name, _: f"{name} must be a JSON object",
    "model_type": lambda name, _: f"{name} must be a JSON object",
    "greater_than": _above,
    "greater_than_equal": _at_least,
    "less_than": lambda name, ctx: f"{name} must be < {ctx['lt']}",
    "less_than_equal": lambda name, ctx: f"{name} must be <= {ctx['le']}",
    "string_too_short": lambda name, _: f"{name} cannot be empty",
    "string_too_long": lambda name, ctx: f"{name} must have at most {ctx['max_length']} characters",
    "too_short": lambda name, _: f"{name} cannot be empty",
    "too_long": lambda name, ctx: f"{name} must have at most {ctx['max_length']} items",
}


def log_unexpected(error: Exception) -> None:
    """A `ServerError` is an answer; anything else is a bug of ours, and needs its traceback."""
    if not isinstance(error, ServerError):
        log.error("unexpected failure", exc_info=error)


def respond_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


def install(app: FastAPI) -> None:
    """Register a handler for everything that a route can raise."""
    handlers: dict[type[Exception], Callable[[Request, Any], Response]] = {
        ServerError: respond,
        RequestValidationError: respond_invalid,
        HTTPException: respond_http,
        ClientGone: respond_gone,
        Exception: respond,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)

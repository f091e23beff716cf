"""The two ways to ask for a stream, and how each counts its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from triptych_client._fields import field, optional
from triptych_client._readers import parse_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one event says. `total` is the server's own count of generated tokens, where it gives one."""

    tokens: int = 0
    done: bool = False
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """`body` takes a prompt and the number of tokens to generate; `read` takes the data of one event."""

    path: str
    body: Callable[[str, int], Mapping[str, Any]]
    read: Callable[[str], Progress]


def tgi(model: str | None = None) -> Dialect:
    """`POST /generate_stream`, as Triptych and text-generation-inference speak it: an event a token."""

    def body(prompt: str, tokens: int) -> Mapping[str, Any]:
        parameters = {"max_new_tokens": tokens, "ignore_eos": True, "details": True}
        return {"inputs": prompt, "parameters": parameters, **_named(model)}

    return Dialect(path="/generate_stream", body=body, read=_read_token_event)


def openai_completions(model: str | None = None) -> Dialect:
    """`POST /v1/completions`, as Triptych, vLLM, SGLang and llama.cpp speak it; greedy."""

    def body(prompt: str, tokens: int) -> Mapping[str, Any]:
        return {
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_named(model),
        }

    return Dialect(path="/v1/completions", body=body, read=_read_completion_event)


def _named(model: str | None) -> dict[str, str]:
    return {} if model is None else {"model": model}


def _read_token_event(data: str) -> Progress:
    event = parse_event(data)
    field(event, "token", dict)
    details = optional(event, "details", dict) or {}
    done = optional(event, "generated_text", str) is not None
    return Progress(tokens=1, done=done, total=optional(details, "generated_tokens", int))


def _read_completion_event(data: str) -> Progress:
    if data == "[DONE]":
        return Progress(done=True)
    event = parse_event(data)
    usage = optional(event, "usage", dict) or {}
    choices = field(event, "choices", list)
    text = optional(choices[0], "text", str) if choices else None
    return Progress(tokens=1 if text else 0, total=optional(usage, "completion_tokens", int))

"""What an answer says of its progress.

Most events of a stream say "one more token" and nothing else. Two searches recognise these, and their JSON is
never read, for the load generator may share its processor with the server; all others are read with care.
A quotation mark inside of a JSON string follows a backslash, so that no text can pass for a field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from triptych_client._errors import UnexpectedAnswer
from triptych_client._fields import excerpt, field, optional, parse_json
from triptych_client._readers import parse_event

TEXT = re.compile(r'"(?:text|content|reasoning|reasoning_content)": ?"[^"]')
TELLS_MORE = re.compile(r'"(?:error|error_type)":|"usage": ?\{|"finish_reason": ?"')
TOKEN = re.compile(r'"token": ?\{')
TELLS_THE_END = re.compile(r'"error":|"generated_text": ?"')
PROMPT_TOKENS = re.compile(rb'"prompt_tokens": ?(\d+)')
WRITTEN = ("content", "reasoning", "reasoning_content")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one event, or a whole answer, says.

    tokens: how many it brings, as far as can be seen: an event with text counts as one.
    done: whether this is the end that the API promises.
    total: the server's own count of generated tokens, where it gives one.
    prompt_tokens: the server's own count of what it was sent, where it gives one.
    texts: how many texts a whole answer answers.
    """

    tokens: int = 0
    done: bool = False
    total: int | None = None
    prompt_tokens: int | None = None
    texts: int = 0


A_TOKEN = Progress(tokens=1)


def read_token_event(data: str) -> Progress:
    """Of `/generate_stream`. Raises `RequestFailed` at an error event, `UnexpectedAnswer` at what is none."""
    if TOKEN.search(data) and not TELLS_THE_END.search(data):
        return A_TOKEN
    event = parse_event(data)
    field(event, "token", dict)
    details = optional(event, "details", dict) or {}
    return Progress(
        tokens=1,
        done=optional(event, "generated_text", str) is not None,
        total=optional(details, "generated_tokens", int),
        prompt_tokens=optional(details, "input_length", int),
    )


def read_openai_event(data: str) -> Progress:
    """Of `/v1/completions` and `/v1/chat/completions`. Raises as `read_token_event` does."""
    if data == "[DONE]":
        return Progress(done=True)
    if TEXT.search(data) and not TELLS_MORE.search(data):
        return A_TOKEN
    event = parse_event(data)
    usage = optional(event, "usage", dict) or {}
    choice: Any = next(iter(field(event, "choices", list)), {})
    return Progress(
        tokens=1 if _written(choice) else 0,
        done=optional(choice, "finish_reason", str) is not None,
        total=optional(usage, "completion_tokens", int),
        prompt_tokens=optional(usage, "prompt_tokens", int),
    )


def _written(choice: Any) -> bool:
    delta = optional(choice, "delta", dict) or {}
    return bool(optional(choice, "text", str) or any(optional(delta, name, str) for name in WRITTEN))


def read_generation(content: bytes, headers: Mapping[str, str]) -> Progress:
    """Of `/generate`: an object, or a list of one."""
    answer = parse_json(content)
    answer = answer[0] if isinstance(answer, list) and answer else answer
    field(answer, "generated_text", str)
    details = optional(answer, "details", dict) or {}
    total = optional(details, "generated_tokens", int)
    return Progress(done=True, total=total, prompt_tokens=_number(headers.get("x-prompt-tokens")), texts=1)


def read_vectors(content: bytes, headers: Mapping[str, str]) -> Progress:
    """Of `/embed`: a list of vectors, whose numbers nobody reads."""
    if not content.lstrip().startswith(b"["):
        raise UnexpectedAnswer(f"expected a list of vectors from the server, found {excerpt(content)}")
    vectors = content.count(b"]") - 1
    return Progress(done=True, texts=vectors, prompt_tokens=_number(headers.get("x-compute-tokens")))


def read_ranks(content: bytes, headers: Mapping[str, str]) -> Progress:
    """Of `/rerank`: a list of `{"index", "score"}`."""
    tokens = _number(headers.get("x-compute-tokens"))
    return Progress(done=True, texts=content.count(b'"index":'), prompt_tokens=tokens)


def read_embeddings(content: bytes, headers: Mapping[str, str]) -> Progress:
    """Of `/v1/embeddings`: a list of `{"embedding", "index"}` under `data`."""
    usage = PROMPT_TOKENS.search(content)
    tokens = int(usage[1]) if usage else None
    return Progress(done=True, texts=content.count(b'"index":'), prompt_tokens=tokens)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None

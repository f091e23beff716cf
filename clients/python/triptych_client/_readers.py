"""Streams, read piece by piece: bytes in, `Piece`s out, one reader a dialect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from triptych_client._errors import StreamTruncated
from triptych_client._failures import Headers, read_error
from triptych_client._fields import field, optional, parse_json
from triptych_client._sse import EventDecoder
from triptych_client._types import Alternative, Generation, Piece, Token


class PieceReader(ABC):
    """Reads one stream: `feed` it the chunks as they come, then call `finish`."""

    def __init__(self) -> None:
        self.ended = False  # the final event has come
        self.text = ""
        self._events = EventDecoder()

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """The pieces that `chunk` completes. Raises `RequestFailed` at an error event."""
        for event in self._events.feed(chunk):
            piece = None if self.ended else self._read(event.data)
            if piece is not None:
                self.text += piece.text
                yield piece

    def finish(self) -> None:
        """A short text never passes for a whole one: raises `StreamTruncated` without a final event."""
        if not self.ended:
            raise StreamTruncated(self.text)

    @abstractmethod
    def _read(self, data: str) -> Piece | None:
        """The piece that one event holds, if it holds one. Sets `ended` at the final event."""


class TokenReader(PieceReader):
    """TGI's dialect: an event for each token; the final one also has the whole text."""

    def __init__(self) -> None:
        super().__init__()
        self._tokens: list[Token] = []

    def _read(self, data: str) -> Piece:
        event = parse_event(data)
        token = read_token(field(event, "token", dict), optional(event, "top_tokens", list))
        text = "" if token.special else token.text
        whole = optional(event, "generated_text", str)
        if whole is not None and token.logprob is None:  # ended between two tokens: it stands for none
            self.ended = True
            return Piece(text="", result=self._result(whole, event))
        self._tokens.append(token)
        if whole is None:
            return Piece(text=text, token=token)
        self.ended = True
        return Piece(text=text, token=token, result=self._result(whole, event))

    def _result(self, text: str, event: dict[str, Any]) -> Generation:
        details = optional(event, "details", dict) or {}
        return Generation(
            text=text,
            finish_reason=optional(details, "finish_reason", str),
            prompt_tokens=optional(details, "input_length", int),
            generated_tokens=optional(details, "generated_tokens", int),
            seed=optional(details, "seed", int),
            tokens=tuple(self._tokens),
            receipt=optional(event, "receipt", dict),
        )


class ChatReader(PieceReader):
    """OpenAI's dialect: deltas, then the finish reason, then the usage, then `[DONE]`."""

    def __init__(self, headers: Headers) -> None:
        super().__init__()
        self._headers = headers
        self._finish: dict[str, Any] = {}
        self._tokens: list[Token] = []
        self._usage: dict[str, Any] | None = None

    def _read(self, data: str) -> Piece | None:
        if data == "[DONE]":
            self.ended = True
            return Piece(text="", result=self._result())
        event = parse_event(data)
        self._usage = optional(event, "usage", dict) or self._usage
        choices = field(event, "choices", list)
        return self._read_choice(choices[0]) if choices else None

    def _read_choice(self, choice: Any) -> Piece | None:
        if optional(choice, "finish_reason", str) is not None:
            self._finish = choice
        self._tokens += read_scored(choice)
        text = optional(optional(choice, "delta", dict) or {}, "content", str)
        return Piece(text=text) if text else None

    def _result(self) -> Generation:
        return chat_generation(
            self._finish, self.text, tokens=self._tokens, usage=self._usage, headers=self._headers
        )


def parse_event(data: str) -> Any:
    """The JSON of one event. Raises the error that it reports, if it reports one."""
    event = parse_json(data)
    if isinstance(event, dict) and event.get("error") is not None:
        raise read_error(event)
    return event


def read_token(token: Any, top: list[Any] | None = None) -> Token:
    """TGI's token, and what its dialect tells beside it."""
    logprob = optional(token, "logprob", (int, float))
    return Token(
        id=field(token, "id", int),
        text=field(token, "text", str),
        logprob=None if logprob is None else float(logprob),
        special=field(token, "special", bool),
        alternatives=tuple(_read_alternative(other, "text") for other in top or ()),
    )


def read_scored(choice: Any) -> list[Token]:
    """The tokens of one OpenAI choice, or of a piece of it; none unless scores were asked for."""
    content = optional(optional(choice, "logprobs", dict) or {}, "content", list)
    return [
        Token(
            id=None,
            text=field(entry, "token", str),
            logprob=float(field(entry, "logprob", (int, float))),
            special=False,
            alternatives=tuple(
                _read_alternative(other, "token") for other in field(entry, "top_logprobs", list)
            ),
        )
        for entry in content or ()
    ]


def _read_alternative(other: Any, text: str) -> Alternative:
    return Alternative(
        text=field(other, text, str),
        logprob=float(field(other, "logprob", (int, float))),
        id=optional(other, "id", int),
    )


def chat_generation(
    choice: Any, text: str, *, tokens: Sequence[Token], usage: dict[str, Any] | None, headers: Headers
) -> Generation:
    """What `choice` says about its ending, around what it said."""
    seed = headers.get("x-seed", "")
    return Generation(
        text=text,
        finish_reason=optional(choice, "finish_reason", str),
        prompt_tokens=optional(usage or {}, "prompt_tokens", int),
        generated_tokens=optional(usage or {}, "completion_tokens", int),
        seed=int(seed) if seed.isdecimal() else None,
        tokens=tuple(tokens),
        receipt=optional(choice, "receipt", dict),
    )

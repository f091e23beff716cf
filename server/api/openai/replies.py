"""What every OpenAI completion says besides its choices: ids, fingerprints, and how it breaks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from server.api.errors import log_unexpected, openai_body
from server.api.sse import DONE
from server.request import ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The fields that the chunks of one stream, or the one document, have in common."""

    id: str
    kind: str  # OpenAI's `object`
    created: int  # unix seconds
    card: ModelCard

    @classmethod
    def open(cls, prefix: str, kind: str, card: ModelCard) -> Reply:
        return cls(id=f"{prefix}-{secrets.token_hex(12)}", kind=kind, created=int(time.time()), card=card)

    def document(self, choices: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.card.name,
            "system_fingerprint": self.card.fingerprint,
            "choices": choices,
            **rest,
        }

    def event(self, choices: list[dict[str, Any]], **rest: Any) -> bytes:
        return msgspec.json.encode(self.document(choices, **rest))


def failure_at(path: str) -> Callable[[Exception], Iterable[bytes]]:
    """How a stream of the route at `path` breaks: an error event, then `[DONE]`."""

    def failure(error: Exception) -> Iterable[bytes]:
        log_unexpected(error)
        yield msgspec.json.encode(openai_body(error, path))
        yield DONE

    return failure

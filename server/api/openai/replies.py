"""What every OpenAI completion says besides its text: ids, fingerprints, usage, and how it breaks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from server.api.errors import log_unexpected, openai_body
from server.api.sse import DONE
from server.request import Finish, ModelCard


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


def usage(finishes: Sequence[Finish]) -> dict[str, int]:
    """Tokens of all prompts and all answers."""
    prompt = sum(finish.prompt_tokens for finish in finishes)
    completion = sum(finish.generated_tokens for finish in finishes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def failure_at(path: str) -> Callable[[Exception], Iterable[bytes]]:
    """How a stream of the route at `path` breaks: an error event, then `[DONE]`."""

    def failure(error: Exception) -> Iterable[bytes]:
        log_unexpected(error)
        yield msgspec.json.encode(openai_body(error, path))
        yield DONE

    return failure

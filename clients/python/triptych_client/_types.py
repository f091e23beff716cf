"""What goes in, and what comes back. Results are frozen; `None` means that the server did not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict


class Options(TypedDict, total=False):
    """How to generate. All are optional; `None` means absent, and what is absent is the server's choice.

    `generate` and `stream` are greedy unless `temperature`, `top_k`, `top_p` or `min_p` is given.

    max_new_tokens: how many tokens at most; absent: as many as the context holds.
    temperature: 0 is greedy; 1 is the model's own distribution.
    top_k: choose among this many most probable tokens.
    top_p: choose among the most probable tokens that hold this much probability, 0 to 1.
    min_p: drop tokens less probable than this fraction of the most probable one, 0 to 1.
    repetition_penalty: above 1 makes tokens that have appeared less likely.
    seed: equal seeds give equal text.
    stop: end before this string, or before the first of these, appears.
    ignore_eos: go on when the model would end its text.
    model: which of the loaded models, by name.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool | None
    model: str | None


class Message(TypedDict):
    """One turn of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token. `logprob` is natural; `special` tokens are no part of the text."""

    id: int
    text: str
    logprob: float | None
    special: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished text.

    `finish_reason` is the server's word: "length", "eos_token" or "stop_sequence" from `generate` and
    `stream`, "length" or "stop" from `chat`. `tokens` is empty where only text is sent, as for `chat`.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    seed: int | None = None
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one event of a stream added. `result` is set on the last piece only, and holds the whole."""

    text: str
    token: Token | None = None
    result: Generation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCandidate:
    """One way to fill a mask: `token_str` with probability `score` makes the text `sequence`."""

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model that the server has loaded. `created` is in seconds since 1970."""

    name: str
    created: int | None = None
    owned_by: str | None = None

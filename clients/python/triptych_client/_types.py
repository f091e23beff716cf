"""What goes in, and what comes back. Results are frozen; `None` means that the server did not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict


class TextOptions(TypedDict, total=False):
    """How a text is written, whatever it is for. All are optional, and `None` means absent.

    What is absent is the server's choice; for `summarize` and `translate`, what the model's folder says.

    max_new_tokens: how many tokens at most; absent, where no folder says: as many as the context holds.
    temperature: 0 is greedy; 1 is the model's own distribution.
    top_k: choose among this many most probable tokens.
    top_p: choose among the most probable tokens that hold this much probability, 0 to 1.
    min_p: drop tokens less probable than this fraction of the most probable one, 0 to 1.
    num_beams: beam search: follow so many texts side by side, 1 to 8, and take the most probable. A stream
        brings it when the search is over. Not together with `temperature` and what else draws at random.
    length_penalty: a beam's log-probability is divided by its length to this power: above 0, long ones win.
    early_stopping: when the search is over: True, at `num_beams` whole texts; False, once better ones are
        unlikely; "never", once they are impossible.
    repetition_penalty: above 1 makes tokens that have appeared less likely.
    seed: equal seeds give equal text.
    stop: end before this string, or before the first of these, appears.
    ignore_eos: go on when the model would end its text.
    model: which of the loaded models, or of their adapters, by name.
    priority: requests with a higher one come first.
    timeout_s: seconds after which the server ends the text where it stands: its `finish_reason` is "timeout".
        `summarize` and `translate`, which tell no reason, raise `Overloaded` instead.
    extra: further parameters by the names that the server's `/docs` lists, such as `{"dry_multiplier": 0.8}`.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool | None
    model: str | None
    priority: int | None
    timeout_s: float | None
    extra: Mapping[str, Any] | None


class Options(TextOptions, total=False):
    """What `generate`, `chat` and their streams take: all of `TextOptions`, and what is here.

    `generate` and `stream` are greedy unless `temperature`, `top_k`, `top_p` or `min_p` is given.

    n: how many texts to write, each with other random numbers from the same seed; not for streams. The result
        is the first of them, or from `generate` the most probable one, and the rest are its `others`.
    top_logprobs: tell so many most probable tokens beside each one; for `chat`, tell tokens at all.
    receipt: tell what the text was made of, for `Client.verify`.
    json_schema, regex, choices, grammar: what the text must be; one of them at most. A JSON schema (an
        object, or its text), a regular expression, one of some strings, a grammar in Lark's notation.
    """

    n: int | None
    top_logprobs: int | None
    receipt: bool | None
    json_schema: Mapping[str, Any] | str | None
    regex: str | None
    choices: Sequence[str] | None
    grammar: str | None


class Message(TypedDict):
    """One turn of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A token that might have stood there. `logprob` is natural; `chat` tells no `id`."""

    text: str
    logprob: float
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token. `logprob` is natural; `special` tokens are no part of the text.

    `chat` tells no `id`. The `alternatives` that were asked for are the most probable first.
    """

    id: int | None
    text: str
    logprob: float | None
    special: bool
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished text.

    `finish_reason` is the server's word: "length", "eos_token" or "stop_sequence" from `generate` and
    `stream`, "length" or "stop" from `chat`, "timeout" from all where `timeout_s` was given. `tokens` is
    empty where only text is sent, as for `chat` without `top_logprobs`. `others` are further texts, if `n`
    asked for them; token counts of a `chat` are those of all together.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    seed: int | None = None
    tokens: tuple[Token, ...] = ()
    others: tuple[Generation, ...] = ()
    receipt: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a receipt.

    `verdict` is "identical"; "different", where token number `index` was `expected` and is `got` (None: the
    text ended there; an `index` of None: only text or finish reason differ); or "other_fingerprint", where
    the text was made by other weights or another kind of machine.
    """

    verdict: str
    index: int | None = None
    expected: int | None = None
    got: int | None = None


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
    """A model that the server has loaded, or an adapter: then `parent` is the model that it is for.

    `created` is in seconds since 1970.
    """

    name: str
    created: int | None = None
    owned_by: str | None = None
    parent: str | None = None

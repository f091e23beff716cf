"""Whole answers, read: JSON in, what the methods return out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from triptych_client._failures import Headers
from triptych_client._fields import field, first, optional, unlike
from triptych_client._readers import chat_generation, read_scored, read_token
from triptych_client._types import Generation, MaskCandidate, ModelCard, Verdict


def read_generation(answer: Any, headers: Headers) -> Generation:
    # POST / of TGI, and some gateways, wrap the one answer in a list.
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    details = optional(answer, "details", dict) or {}
    best = _read_sequence(answer, details, headers)
    others = optional(details, "best_of_sequences", list) or ()
    return replace(
        best,
        others=tuple(_read_sequence(other, other, headers) for other in others),
        receipt=optional(answer, "receipt", dict),
    )


def _read_sequence(answer: Any, details: Any, headers: Headers) -> Generation:
    """One text of TGI's, and what is told of it."""
    tokens = optional(details, "tokens", list) or ()
    tops = optional(details, "top_tokens", list) or [None] * len(tokens)
    if len(tops) != len(tokens):
        raise unlike("`top_tokens` of each token", details)
    prompt_tokens = headers.get("x-prompt-tokens", "")
    return Generation(
        text=field(answer, "generated_text", str),
        finish_reason=optional(details, "finish_reason", str),
        prompt_tokens=int(prompt_tokens) if prompt_tokens.isdecimal() else None,
        generated_tokens=optional(details, "generated_tokens", int),
        seed=optional(details, "seed", int),
        tokens=tuple(read_token(token, top) for token, top in zip(tokens, tops, strict=True)),
    )


def read_chat(answer: Any, headers: Headers) -> Generation:
    usage = optional(answer, "usage", dict)

    def read(choice: Any) -> Generation:
        text = optional(field(choice, "message", dict), "content", str) or ""
        return chat_generation(choice, text, tokens=read_scored(choice), usage=usage, headers=headers)

    choices = field(answer, "choices", list)
    return replace(read(first(choices, "choices")), others=tuple(read(choice) for choice in choices[1:]))


def read_verdict(answer: Any, headers: Headers) -> Verdict:
    return Verdict(
        verdict=field(answer, "verdict", str),
        index=optional(answer, "index", int),
        expected=optional(answer, "expected", int),
        got=optional(answer, "got", int),
    )


def read_masks(answer: Any, headers: Headers) -> list[list[MaskCandidate]]:
    """One mask is answered by a flat list, several by a list each; the caller always gets a list each."""
    if not isinstance(answer, list):
        raise unlike("a list of candidates", answer)
    per_mask = answer if answer and isinstance(answer[0], list) else [answer]
    return [[_read_candidate(candidate) for candidate in candidates] for candidates in per_mask]


def _read_candidate(candidate: Any) -> MaskCandidate:
    return MaskCandidate(
        score=float(field(candidate, "score", (int, float))),
        token=field(candidate, "token", int),
        token_str=field(candidate, "token_str", str),
        sequence=field(candidate, "sequence", str),
    )


def read_vectors(answer: Any, count: int) -> list[list[float]]:
    if not isinstance(answer, list) or len(answer) != count:
        raise unlike(f"a list of {count} vectors", answer)
    if not all(isinstance(vector, list) for vector in answer):
        raise unlike(f"a list of {count} vectors", answer)
    return answer


def read_texts(answer: Any, name: str, count: int) -> list[str]:
    """Of Hugging Face's tasks: an object for each text that was sent, what became of it under `name`."""
    if not isinstance(answer, list) or len(answer) != count:
        raise unlike(f"a list of {count} objects with `{name}`", answer)
    return [field(each, name, str) for each in answer]


def read_models(answer: Any, headers: Headers) -> list[ModelCard]:
    return [
        ModelCard(
            name=field(card, "id", str),
            created=optional(card, "created", int),
            owned_by=optional(card, "owned_by", str),
            parent=optional(card, "parent", str),
        )
        for card in field(answer, "data", list)
    ]

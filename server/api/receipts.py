"""Receipts: what a text was made of, so that anybody can have it made again and compare.

A text is a function of weights, prompt ids, parameters and seed. A receipt records all of it, and its own
BLAKE2b sum: whoever keeps receipts sees that one was changed, but nothing secret goes into it, so it is
no signature. `receipt_body` reads one back, `verify` acts on it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from server.request import Finish, GenerateRequest, ModelCard, Sampling

VERSION = 2  # of the format; a reader knows one
EXACT = 2**53  # below it, every whole number is a double too


def receipt(card: ModelCard, request: GenerateRequest, finish: Finish) -> dict[str, Any]:
    """What `finish` was made of, as JSON: model, fingerprint, prompt and output ids, and every parameter that
    has a say in the text, defaults written out. Nothing about the caller (`Terms`) is in it.

    `max_new_tokens` is what "as many as the context holds" came to. `seed` is a string and a bias of minus
    infinity is `false`: JavaScript rounds large numbers, and JSON knows no infinity.
    """
    content = {
        "version": VERSION,
        "model": card.name,
        "system_fingerprint": card.fingerprint,
        "prompt_ids": list(finish.prompt_ids),
        "parameters": _parameters(card, request, finish),
        "output_ids": list(finish.output_ids),
        "text": finish.text,
        "finish_reason": finish.reason.value,
    }
    return content | {"hash": seal(content)}


def _parameters(card: ModelCard, request: GenerateRequest, finish: Finish) -> dict[str, Any]:
    written_after = len(finish.prompt_ids) if card.source_tokens is None else 1
    room = card.max_tokens - written_after
    return {
        "sampling": _sampling(request.sampling),
        "max_new_tokens": room if request.max_new_tokens is None else request.max_new_tokens,
        "stop": list(request.stop),
        "stop_tokens": list(request.stop_tokens),
        "include_stop": request.include_stop,
        "ignore_eos": request.ignore_eos,
        "bad_words": list(request.bad_words),
        "dry_breakers": list(request.dry_breakers),
        "grammar": msgspec.to_builtins(request.grammar),
        "beams": msgspec.to_builtins(request.beams),
        "target_language": request.target_language,
    }


def _sampling(chosen: Sampling) -> dict[str, Any]:
    bias = [[token, False if added == -math.inf else added] for token, added in chosen.logit_bias]
    fields: dict[str, Any] = msgspec.to_builtins(chosen)
    return fields | {"seed": str(chosen.seed), "logit_bias": bias}


def seal(content: Mapping[str, Any]) -> str:
    """64 hexadecimal digits over the content as JSON with sorted keys."""
    encoded = msgspec.json.encode(_canonical(content), order="sorted")
    return hashlib.blake2b(encoded, digest_size=32, person=b"triptych-receipt").hexdigest()


def _canonical(value: Any) -> Any:
    """Equal numbers are written alike: on its way through other programs 1.0 becomes 1."""
    match value:
        case dict():
            return {key: _canonical(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_canonical(inner) for inner in value]
        case float() if value.is_integer() and abs(value) < EXACT:
            return int(value)
    return value

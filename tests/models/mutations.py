"""Other values that a field of a `config.json` might have: what the fuzz of configurations tries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from models.families.reading import ACTIVATIONS

Raw = Mapping[str, Any]

# Those that we know have a test of their own.
SOME_ACTIVATIONS = ("relu", "gelu_new", *sorted(ACT2FN.keys() - ACTIVATIONS.keys()))

# Fields of free text, by what they are called: what transformers knows, and one thing that nobody knows.
NAMED: Mapping[str, tuple[Any, ...]] = {
    "attention_layers": (["local", "global", "local"], ["local"] * 3, ["global"] * 3),
    "attention_types": ([[["local"], 3]], [[["global"], 3]], [[["local", "global", "global"], 1]]),
    "classifier_pooling": ("cls", "mean"),
    "feed_forward_proj": ("relu", "gelu", "gelu_new", "gated-gelu", "gated-silu", "gated-relu", "silu"),
    "norm_type": ("layer_norm", "rms_norm"),
    "pos_att_type": ([], ["c2p"], ["p2c"], ["p2c", "c2p"], "c2p|p2c"),
    "position_embedding_type": ("absolute", "relative_key", "relative_key_query", "rotary", "alibi"),
}
# What a scaling of rotary positions may have beside its type, all of it at once; too much is an error.
ROPE_EXTRAS: Mapping[str, tuple[Raw, ...]] = {
    "default": ({},),
    "linear": ({"factor": 4.0},),
    "dynamic": ({"factor": 4.0},),
    "llama3": (
        {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 64},
        {"factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5},
        {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0, "beta_slow": 2.0},
        {"factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.5, "mscale_all_dim": 0.5},
        {"factor": 4.0, "original_max_position_embeddings": 64, "truncate": False},
    ),
    "longrope": (
        {
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
        },
    ),
    "proportional": ({},),
}


def mutations(raw: Raw, field: str, value: Any) -> Iterator[tuple[str, Raw]]:
    """Configurations like `raw` but for `field`, whose value there is `value`, each with a name."""
    yield "absent", {key: kept for key, kept in raw.items() if key != field}
    for other in _others(field, value):
        if other == value and type(other) is type(value):
            continue
        yield repr(other), {**raw, field: other}
        shorter = _without_lists_of(value, raw)
        if field.endswith(("layers", "layer")) and len(shorter) < len(raw):
            yield f"{other!r}, lists left out", {**shorter, field: other}


def _others(field: str, value: Any) -> Iterator[Any]:
    yield None
    if field in NAMED:
        yield from (*NAMED[field], "no such choice")
        return
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from _other_numbers(value)
        case str():
            yield from (*(SOME_ACTIVATIONS if value in ACT2FN else ()), "no such choice")
        case list():
            yield from ([], value[::-1], value[:1] * len(value), value[-1:] * len(value))
        case dict():
            yield from _other_ropes(value)
        case None:
            yield from (True, 1, 4, 0.5, "no such choice")


def _other_numbers(value: float) -> Iterator[float]:
    """Zero, one and twice as much; of what is counted also half. One is no size of a vocabulary or a text."""
    yield from (0 * value, 2 * value)
    if isinstance(value, float):
        yield 1.0
    else:
        yield from (value // 2, 1) if value < 64 else (value // 2,)


def _other_ropes(value: Raw) -> Iterator[Raw]:
    """`rope_parameters`, or a dict of them by the type of layer."""
    if any(isinstance(one, dict) for one in value.values()):
        for kind, one in value.items():
            yield from ({**value, kind: other} for other in _other_ropes(one or {}))
        return
    plain = {"rope_type": "default", "rope_theta": value.get("rope_theta") or 10_000.0}
    yield {**value, "rope_theta": 2 * plain["rope_theta"]}
    yield {**value, "partial_rotary_factor": 0.5}
    yield {**value, "no_such_parameter": 2.0}
    for kind in ("default", *ROPE_INIT_FUNCTIONS, "no such type"):
        for extras in ROPE_EXTRAS.get(kind, ({"factor": 2.0},)):
            yield {**plain, "rope_type": kind, **extras}


def _without_lists_of(length: Any, raw: Raw) -> Raw:
    """Without what states something of each layer, as there will be another number of layers."""
    return {key: one for key, one in raw.items() if not (isinstance(one, list) and len(one) == length)}

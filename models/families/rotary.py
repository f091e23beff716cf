"""Reads how the positions of a `config.json` are rotated, in the layouts of older and newer files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import log
from typing import Any

from models.errors import UnsupportedModel
from models.families.reading import Fields, choice, flag, number, refuse, whole
from models.positions import DynamicScaling, LinearScaling, Llama3Scaling, Rotary, Scaling, YarnScaling

ScalingReader = Callable[
    [Mapping[str, Any], Mapping[str, Any]], Scaling | None
]  # the object, all of the file


def rotary(
    raw: Mapping[str, Any],
    head_dim: int,
    *,
    theta: float = 10_000.0,
    partial: float | None = None,
    kinds: Collection[str] | None = None,
) -> Rotary:
    """`rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both in newer files.

    `theta` and `partial`: the base, and the part of each head's elements that is turned, where none is
    stated; `partial` None: all, and nothing else is possible. `kinds` of scaling that the family knows; None:
    all. Raises UnsupportedModel for what is not implemented.
    """
    scaling = _object(raw, "rope_scaling") or _object(raw, "rope_parameters")
    base = number(raw, "rope_theta", theta)
    part = number(raw, "partial_rotary_factor", 1.0 if partial is None else partial)
    part = number(scaling, "partial_rotary_factor", part)
    if partial is None and part != 1.0:
        raise UnsupportedModel(f"`partial_rotary_factor` is {part}; only 1.0 is supported")
    size = int(head_dim * part)
    if size % 2 or not 0 < size <= head_dim:
        raise UnsupportedModel(
            f"`partial_rotary_factor` {part} of the {head_dim} elements of a head (`hidden_size` / "
            f"`num_attention_heads`, or `head_dim`) is {size}: these are turned in pairs"
        )
    return _scaled(
        scaling,
        raw,
        base,
        None if part == 1.0 else size,
        {kind: SCALINGS[kind] for kind in kinds or SCALINGS},
    )


def rotaries(raw: Mapping[str, Any], *, theta: float, local_theta: float) -> tuple[Rotary, Rotary]:
    """That of the layers that see everything, and that of the local ones: Gemma 3, OLMo 3.

    `rope_parameters` holds an object for each; in older files `rope_theta` and `rope_scaling` are about the
    former, `rope_local_base_freq` about the latter. `theta`, `local_theta`: the bases where none is stated.
    """
    kinds = Fields(_object(raw, "rope_parameters"))
    everywhere = {**_object(kinds, "full_attention"), **_object(raw, "rope_scaling")}
    nearby = _object(kinds, "sliding_attention")
    _all_read(kinds, "rope_parameters")
    for scaling in (everywhere, nearby):
        _refuse_within(scaling, {"partial_rotary_factor": 1.0, "truncate": True})
    theta = number(raw, "rope_theta", theta)
    local_theta = number(raw, "rope_local_base_freq", local_theta)
    return _scaled(everywhere, raw, theta), _scaled(nearby, raw, local_theta)


def _refuse_within(scaling: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    try:
        refuse(scaling, expected)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"`rope_parameters`: {error}") from error


def _object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Empty where there is none."""
    value = raw.get(key)
    if not isinstance(value, Mapping | None):
        raise UnsupportedModel(f"`{key}` is {value!r}; a JSON object was expected")
    return value or {}


def _scaled(
    scaling: Mapping[str, Any],
    raw: Mapping[str, Any],
    theta: float,
    size: int | None = None,
    kinds: Mapping[str, ScalingReader] | None = None,
) -> Rotary:
    fields = Fields(scaling)
    fields.get("partial_rotary_factor")  # the callers have read it
    theta = number(fields, "rope_theta", theta)
    kind = choice(fields, "rope_type" if "rope_type" in fields else "type", kinds or SCALINGS, "default")
    found = Rotary(theta=theta, size=size, scaling=kind(fields, raw))
    fields.get("type")  # some files have both names
    fields.get("finetuned")  # YaRN's first files: whether the model was trained on with it
    _all_read(fields, "rope_scaling")
    return found


def _all_read(fields: Fields, name: str) -> None:
    if unread := fields.unread():
        keys = ", ".join(f"`{key}`" for key in sorted(unread))
        raise UnsupportedModel(f"`{name}` has {keys}, which is not supported there")


def _default(scaling: Mapping[str, Any], raw: Mapping[str, Any]) -> None:
    return None


def _linear(scaling: Mapping[str, Any], raw: Mapping[str, Any]) -> LinearScaling:
    return LinearScaling(factor=number(scaling, "factor"))


def _dynamic(scaling: Mapping[str, Any], raw: Mapping[str, Any]) -> DynamicScaling:
    original = whole(raw, "max_position_embeddings")
    refuse(scaling, {"original_max_position_embeddings": original})
    return DynamicScaling(factor=number(scaling, "factor"), original_context=original)


def _llama3(scaling: Mapping[str, Any], raw: Mapping[str, Any]) -> Llama3Scaling:
    return Llama3Scaling(
        factor=number(scaling, "factor"),
        low_frequency=number(scaling, "low_freq_factor"),
        high_frequency=number(scaling, "high_freq_factor"),
        original_context=whole(scaling, "original_max_position_embeddings"),
    )


def _yarn(scaling: Mapping[str, Any], raw: Mapping[str, Any]) -> YarnScaling:
    context = whole(raw, "max_position_embeddings")
    original = whole(scaling, "original_max_position_embeddings", context)
    factor = number(scaling, "factor", context / original)
    return YarnScaling(
        factor=factor,
        original_context=original,
        magnitude=_magnitude(scaling, factor),
        fast_turns=number(scaling, "beta_fast", 32.0),
        slow_turns=number(scaling, "beta_slow", 1.0),
        whole_pairs=flag(scaling, "truncate", "truncate" not in scaling),  # null is false
    )


def _magnitude(scaling: Mapping[str, Any], factor: float) -> float:
    """Peng et al. 2023, eq. 22: 0.1 ln(factor) + 1; DeepSeek's variant divides two of these."""
    stated, mscale, all_dim = (scaling.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if stated is not None:
        return number(scaling, "attention_factor")
    if mscale and all_dim:
        return _grown(factor, number(scaling, "mscale")) / _grown(factor, number(scaling, "mscale_all_dim"))
    return _grown(factor, 1.0)


def _grown(factor: float, by: float) -> float:
    return 0.1 * by * log(factor) + 1.0 if factor > 1 else 1.0


SCALINGS: Mapping[str, ScalingReader] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}

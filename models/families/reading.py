"""Reads a `config.json` strictly: what is missing, mistyped or unknown is an error naming its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from models.config import Activation, LinearScaling, Llama3Scaling, Rotary
from models.errors import UnsupportedModel

T = TypeVar("T")

ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "relu": Activation.RELU,
}


def whole(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number. UnsupportedModel where it is absent without default, or something else."""
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedModel(
            f"the model's configuration needs a positive whole number as `{key}`, has {value!r}"
        )
    return value


def number(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A positive number. UnsupportedModel where it is absent without default, or something else."""
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UnsupportedModel(f"the model's configuration needs a positive number as `{key}`, has {value!r}")
    return float(value)


def flag(raw: Mapping[str, Any], key: str, default: bool) -> bool:
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise UnsupportedModel(f"the model's configuration needs true or false as `{key}`, has {value!r}")
    return value


def choice(raw: Mapping[str, Any], key: str, choices: Mapping[str, T], default: str | None = None) -> T:
    """What `choices` says the value means. UnsupportedModel names the value and those that are known."""
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, str) or value not in choices:
        raise UnsupportedModel(f"`{key}` is {value!r}; supported: {', '.join(choices)}")
    return choices[value]


def refuse(raw: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """UnsupportedModel where a key is present with another value than the only one that is implemented."""
    for key, value in expected.items():
        if raw.get(key, value) != value:
            raise UnsupportedModel(f"`{key}` is {raw[key]!r}; only {value!r} is supported")


def divided(raw: Mapping[str, Any], total: str, parts: str) -> int:
    """`total / parts`, both keys of the configuration. UnsupportedModel where it leaves a remainder."""
    size, remainder = divmod(whole(raw, total), whole(raw, parts))
    if remainder:
        raise UnsupportedModel(f"`{total}` {raw[total]} is not a multiple of `{parts}` {raw[parts]}")
    return size


def rotary(raw: Mapping[str, Any]) -> Rotary:
    """`rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both in newer files.

    Raises UnsupportedModel for any scaling but linear and llama3.
    """
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise UnsupportedModel(f"`rope_scaling` is {scaling!r}; a JSON object was expected")
    refuse(scaling, {"partial_rotary_factor": 1.0})
    theta = number(scaling, "rope_theta", number(raw, "rope_theta", 10_000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    match kind:
        case "default":
            return Rotary(theta=theta)
        case "linear":
            return Rotary(theta=theta, scaling=LinearScaling(factor=number(scaling, "factor")))
        case "llama3":
            return Rotary(theta=theta, scaling=_llama3(scaling))
    raise UnsupportedModel(f"`rope_type` is {kind!r}; supported: default, linear, llama3")


def _llama3(scaling: Mapping[str, Any]) -> Llama3Scaling:
    return Llama3Scaling(
        factor=number(scaling, "factor"),
        low_frequency=number(scaling, "low_freq_factor"),
        high_frequency=number(scaling, "high_freq_factor"),
        original_context=whole(scaling, "original_max_position_embeddings"),
    )

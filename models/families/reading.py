"""Reads a `config.json` strictly: what is missing, mistyped or unknown is an error naming its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import log
from typing import Any, TypeVar

from models.config import Activation
from models.errors import UnsupportedModel
from models.positions import DynamicScaling, LinearScaling, Llama3Scaling, Rotary, Scaling, YarnScaling

T = TypeVar("T")

ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_accurate": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "quick_gelu": Activation.GELU_SIGMOID,
    "relu": Activation.RELU,
    "relu2": Activation.RELU_SQUARED,
    "tanh": Activation.TANH,
}


class Fields(Mapping[str, Any]):
    """A configuration that remembers what it was asked for, so that what nobody reads is not ignored."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self._asked = set[str]()

    def __getitem__(self, key: str) -> Any:
        self._asked.add(key)
        return self._raw[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def unread(self) -> list[str]:
        """Keys with a value that nobody asked for."""
        return [key for key, value in self._raw.items() if key not in self._asked and value is not None]


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


def rotary(raw: Mapping[str, Any], head_dim: int, *, theta: float = 10_000.0, partial: float = 1.0) -> Rotary:
    """`rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both in newer files.

    `theta` and `partial`: the base, and the part of each head's elements that is turned, where none is
    stated. Raises UnsupportedModel for a scaling that is not implemented.
    """
    newer, older = raw.get("rope_parameters"), raw.get("rope_scaling")
    scaling = newer or older or {}
    if not isinstance(scaling, Mapping):
        raise UnsupportedModel(f"`rope_scaling` is {scaling!r}; a JSON object was expected")
    fields = Fields(scaling)
    base = number(fields, "rope_theta", number(raw, "rope_theta", theta))
    kind = choice(fields, "rope_type" if "rope_type" in fields else "type", SCALINGS, "default")
    part = number(fields, "partial_rotary_factor", number(raw, "partial_rotary_factor", partial))
    size = None if part == 1.0 else int(head_dim * part)
    found = Rotary(theta=base, size=size, scaling=kind(fields, raw))
    unread = set(fields.unread()) - {"type"}
    if unread:
        keys = ", ".join(f"`{key}`" for key in sorted(unread))
        raise UnsupportedModel(f"`rope_scaling` has {keys}, which this kind of scaling does not take")
    return found


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
        whole_pairs=flag(scaling, "truncate", True),
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


SCALINGS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Scaling | None]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}

"""Reads a `config.json` strictly: what is missing, mistyped or unknown is an error naming its key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, TypeVar

from models.config import Activation, Bias
from models.errors import UnsupportedModel

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
BIASES = {"attention_bias": {Bias.QKV, Bias.ATTENTION_OUT}, "mlp_bias": {Bias.MLP}}


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


def whole(raw: Mapping[str, Any], key: str, default: int | None = None, *, least: int = 1) -> int:
    """A whole number from `least` on. UnsupportedModel where it is another, or absent without default."""
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        kind = "positive whole number" if least == 1 else f"whole number of at least {least}"
        raise UnsupportedModel(f"the model's configuration needs a {kind} as `{key}`, has {value!r}")
    return value


def number(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A positive number. UnsupportedModel where it is absent without default, or something else."""
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UnsupportedModel(f"the model's configuration needs a positive number as `{key}`, has {value!r}")
    return float(value)


def flag(raw: Mapping[str, Any], key: str, default: bool, *, null: bool | None = None) -> bool:
    """True or false; `null`: what null means, None: the default. UnsupportedModel for anything else."""
    value = raw.get(key, default)
    if value is None:
        value = default if null is None else null
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


def words(raw: Mapping[str, Any], key: str, known: Set[str]) -> frozenset[str]:
    """Some of `known`, as a list or with "|" between them; none where the key is absent. UnsupportedModel
    names what is not known."""
    value = raw.get(key) or []
    found = [word.strip().lower() for word in value.split("|")] if isinstance(value, str) else value
    if not isinstance(found, list) or not {*map(str, found)} <= known:
        raise UnsupportedModel(f"`{key}` is {value!r}; supported: {', '.join(sorted(known))}")
    return frozenset(found)


def refuse(raw: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """UnsupportedModel where a key has another value than the only one that is implemented; null is none."""
    for key, value in expected.items():
        if raw.get(key) is not None and raw[key] != value:
            raise UnsupportedModel(f"`{key}` is {raw[key]!r}; only {value!r} is supported")


def divided(raw: Mapping[str, Any], total: str, parts: str) -> int:
    """`total / parts`, both keys of the configuration. UnsupportedModel where it leaves a remainder."""
    size, remainder = divmod(whole(raw, total), whole(raw, parts))
    if remainder:
        raise UnsupportedModel(f"`{total}` {raw[total]} is not a multiple of `{parts}` {raw[parts]}")
    return size


def head_size(raw: Mapping[str, Any], default: int | None = None) -> int:
    """`head_dim`, or `default`, or else hidden size / heads."""
    if raw.get("head_dim", default) is None:
        return divided(raw, "hidden_size", "num_attention_heads")
    return whole(raw, "head_dim", default)


def biases(raw: Mapping[str, Any], *known: str) -> frozenset[Bias]:
    """What the keys of `BIASES` say that a family knows; the others may be false only."""
    refuse(raw, {key: False for key in BIASES if key not in known})
    return frozenset(bias for key in known if flag(raw, key, False) for bias in BIASES[key])


def architectures(raw: Mapping[str, Any]) -> Sequence[str]:
    """What transformers calls the model, with its head; UnsupportedModel where that is no list of names."""
    names = raw.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnsupportedModel(f"`architectures` is {names!r}; a list of names was expected")
    return names


def only_heads(raw: Mapping[str, Any], *endings: str) -> None:
    """UnsupportedModel where `architectures` names a model whose name ends in none of these."""
    for name in architectures(raw):
        if not name.endswith(endings):
            raise UnsupportedModel(f"`architectures` names {name}; supported: {', '.join(endings)}")

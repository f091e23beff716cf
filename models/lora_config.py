"""What PEFT's `adapter_config.json` says: which modules are changed, and by how much.

https://huggingface.co/docs/peft/main/en/package_reference/lora. A key that changes a result and is not
implemented is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeVar

from models.errors import UnsupportedModel
from models.families.reading import Fields, flag, number, refuse, whole

T = TypeVar("T")

# What was trained, where and how; `fan_in_fan_out` tells PEFT how the base stores its weights, which we know.
NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "fan_in_fan_out",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
# How the two matrices began. Other ways (PiSSA, OLoRA, CorDA, LoftQ) change the base model's weights as well.
BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
ALL = "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Which modules are changed: those whose name one regular expression matches as a whole, or that end in
    one of several names; all of them but the head; or, of several names, only within some layers.
    """

    named: str | tuple[str, ...]
    excluded: str | tuple[str, ...] = ()
    layers: frozenset[int] | None = None
    within: tuple[str, ...] = ()  # what may stand before a layer's number; none: any name

    def include(self, module: str, *, head: bool = False) -> bool:
        """As PEFT decides it, by the module's whole name. `head`: whether it is the language-model head."""
        if _names(self.excluded, module):
            return False
        if self.named == ALL:
            return not head
        if isinstance(self.named, str) or module in self.named:
            return _names(self.named, module)
        return _names(self.named, module) and (self.layers is None or self._layer(module) in self.layers)

    def _layer(self, module: str) -> int | None:
        """The first number behind a dot that fits."""
        patterns = [rf"(?:^|.*?\.){one}\.(\d+)\." for one in self.within] or [r".*?\.[^.]*\.(\d+)\."]
        found = (re.match(pattern, module) for pattern in patterns)
        return next((int(match[1]) for match in found if match), None)


def _names(names: str | tuple[str, ...], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Ranks, and the factors of the changes: alpha / r.

    Patterns give modules ranks and alphas of their own. `stabilised`: alpha / sqrt(r) (Kalajdzievski 2023,
    arXiv 2312.03732).
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    stabilised: bool

    def of(self, module: str) -> tuple[int, float]:
        """The rank of the module's change, and its factor."""
        rank = next(_matching(self.ranks, module), self.rank)
        alpha = next(_matching(self.alphas, module), self.alpha)
        return rank, alpha / (sqrt(rank) if self.stabilised else rank)


def _matching(patterns: Mapping[str, T], module: str) -> Iterator[T]:
    return (value for name, value in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{name})", module))


def read_config(raw: Mapping[str, Any]) -> tuple[Targets, Scaling]:
    """Raises UnsupportedModel naming every key that is not implemented, or is not what it should be."""
    fields = Fields(raw)
    refuse(fields, {"peft_type": "LORA", "bias": "none"})
    targets, scaling = _read_targets(fields), _read_scaling(fields)
    beginning = fields.get("init_lora_weights")
    if beginning not in BEGINNINGS:
        raise UnsupportedModel(
            f"`init_lora_weights` is {beginning!r}, which changes the base model, too: "
            "save the adapter converted to one that does not"
        )
    unread = set(fields.unread()) - NEUTRAL
    asked = sorted(key for key in unread if raw[key])  # what is false or empty asks for nothing
    if asked:
        raise UnsupportedModel(f"{', '.join(f'`{key}` {raw[key]!r}' for key in asked)}: not supported")
    return targets, scaling


def _read_scaling(fields: Mapping[str, Any]) -> Scaling:
    ranks, alphas = _patterns(fields, "rank_pattern"), _patterns(fields, "alpha_pattern")
    return Scaling(
        rank=whole(fields, "r", 8),
        alpha=number(fields, "lora_alpha", 8.0),
        ranks={name: whole(ranks, name) for name in ranks},
        alphas={name: number(alphas, name) for name in alphas},
        stabilised=flag(fields, "use_rslora", False),
    )


def _patterns(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    patterns = fields.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise UnsupportedModel(f"`{key}` is {patterns!r}; a JSON object was expected")
    for name in patterns:
        _check_expression(key, name)
    return patterns


def _read_targets(fields: Mapping[str, Any]) -> Targets:
    named, excluded = _names_of(fields, "target_modules"), _names_of(fields, "exclude_modules")
    if not named:
        raise UnsupportedModel(
            f"`target_modules` is {named!r}; names, a regular expression or {ALL!r} were expected"
        )
    within = _patterns_of_layers(fields)
    layers = fields.get("layers_to_transform")
    if layers is None or layers == []:
        return Targets(named=named, excluded=excluded)
    layers = layers if isinstance(layers, list) else [layers]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in layers):
        raise UnsupportedModel(f"`layers_to_transform` is {layers!r}; numbers of layers were expected")
    return Targets(named=named, excluded=excluded, layers=frozenset(layers), within=within)


def _patterns_of_layers(fields: Mapping[str, Any]) -> tuple[str, ...]:
    patterns = _names_of(fields, "layers_pattern")
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    for pattern in patterns:
        _check_expression("layers_pattern", pattern)
    return patterns


def _names_of(fields: Mapping[str, Any], key: str) -> str | tuple[str, ...]:
    """One regular expression, or several names; () where there is nothing."""
    value = fields.get(key) or ()
    if isinstance(value, str):
        _check_expression(key, value)
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one for one in value):
        raise UnsupportedModel(f"`{key}` is {value!r}; a list of names or a regular expression was expected")
    return tuple(value)


def _check_expression(key: str, expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise UnsupportedModel(f"`{key}` has {expression!r}, no regular expression: {error}") from error

"""Reads which layers of a decoder see only the tokens nearby: `sliding_window`, `layer_types`, and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.config import Local
from models.errors import UnsupportedModel
from models.families.reading import whole
from models.positions import Rotary

FULL, SLIDING = "full_attention", "sliding_attention"


def window(raw: Mapping[str, Any], default: int | None) -> int | None:
    """`sliding_window` in tokens; null: none. `default`: what is meant where the key is absent."""
    value = raw.get("sliding_window", default)
    return None if value is None else whole(raw, "sliding_window", default)


def everywhere(layers: int, size: int | None) -> Local | None:
    """Every one of `layers` sees `size` tokens; None: all."""
    return None if size is None else Local(layers=frozenset(range(layers)), window=size)


def by_type(
    raw: Mapping[str, Any],
    layers: int,
    size: int | None,
    *,
    default: Callable[[int], bool],
    rotary: Rotary | None = None,
) -> Local | None:
    """The layers that `layer_types` calls sliding see `size` tokens; without it, those that `default` picks.

    UnsupportedModel where it does not say one of two words for each layer, or `size` is missing.
    """
    types = raw.get("layer_types")
    if types is None:
        types = [SLIDING if default(layer) else FULL for layer in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not {*map(str, types)} <= {FULL, SLIDING}:
        raise UnsupportedModel(
            f"`layer_types` is {types!r}; {layers} of {FULL} or {SLIDING} are supported, one for each layer"
        )
    local = frozenset(layer for layer, kind in enumerate(types) if kind == SLIDING)
    if not local:
        return None
    if size is None:
        raise UnsupportedModel(f"`layer_types` has {SLIDING}, but there is no `sliding_window`")
    return Local(layers=local, window=size, rotary=rotary)


def by_turns(raw: Mapping[str, Any], layers: int, size: int) -> Local | None:
    """The layers that are "local" see `size` tokens, the "global" ones all: GPT-Neo.

    `attention_types` says what comes how often, as in `[[["global", "local"], 12]]`, which is meant where
    there is none; `attention_layers` may say the same in full. UnsupportedModel where they do not agree, or
    do not say one of the two words for each layer.
    """
    turns: Any = raw.get("attention_types") or [[["global", "local"], 12]]
    try:
        kinds = [str(kind) for part, times in turns for kind in part * times]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != layers or not set(kinds) <= {"global", "local"}:
        raise UnsupportedModel(
            f"`attention_types` is {turns!r}; it must say global or local for each of `num_layers` {layers}"
        )
    if raw.get("attention_layers") not in (None, kinds):
        raise UnsupportedModel(f"`attention_layers` is not what `attention_types` says: {kinds}")
    local = frozenset(layer for layer, kind in enumerate(kinds) if kind == "local")
    return Local(layers=local, window=size) if local else None

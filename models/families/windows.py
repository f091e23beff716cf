"""Reads which layers of a decoder see only the tokens nearby: `sliding_window`, `layer_types`."""

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

"""SmolLM3 (Bakouch et al. 2025): a LLaMA of which every fourth layer is not told where tokens are.

"NoPE": Kazemnejad et al. 2023, arXiv 2305.19466.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import DecoderConfig
from models.errors import UnsupportedModel
from models.families import llama
from models.families.reading import BIASES, flag, head_size, whole
from models.families.rotary import rotary
from models.families.windows import by_type, window


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    positions = rotary(raw, head_size(raw), theta=2_000_000.0)
    plain = llama.plain(raw, "smollm3", positions=positions, biased=tuple(BIASES), tied=True)
    unplaced, size = _unplaced(raw, plain.layers), window(raw, None)
    # Without `layer_types`, windows are for the layers without positions.
    nearby = unplaced if flag(raw, "use_sliding_window", False) and size else frozenset[int]()
    local = by_type(raw, plain.layers, size, default=lambda layer: layer in nearby)
    return replace(plain, unplaced=unplaced, local=local)


def _unplaced(raw: Mapping[str, Any], layers: int) -> frozenset[int]:
    """Where `no_rope_layers` has a 0; without it, every so many."""
    every, placed = whole(raw, "no_rope_layer_interval", 4), raw.get("no_rope_layers")
    if placed is None:
        placed = [int((layer + 1) % every > 0) for layer in range(layers)]
    if not isinstance(placed, list) or len(placed) < layers or not all(one in (0, 1) for one in placed):
        raise UnsupportedModel(
            f"`no_rope_layers` is {placed!r}; a list of 0 or 1 for {layers} layers was expected"
        )
    return frozenset(layer for layer in range(layers) if not placed[layer])


# `max_window_layers` is a left-over in the published file: nothing is made of it.
FAMILY = replace(llama.FAMILY, config=config, neutral=frozenset({"max_window_layers"}))

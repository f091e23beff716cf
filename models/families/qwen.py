"""Qwen2 (arXiv 2407.10671), a LLaMA with query, key, value biases; Qwen3 (2505.09388), which norms them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Bias, DecoderConfig, Local, Norm, QueryKeyNorm
from models.families import llama
from models.families.reading import flag, whole
from models.families.windows import by_type, window

NEUTRAL = frozenset({"max_window_layers", "sliding_window"})  # unread where windows are not used


def qwen2(raw: Mapping[str, Any]) -> DecoderConfig:
    plain = llama.plain(raw, "qwen2")
    return replace(plain, biases=frozenset({Bias.QKV}), local=_local(raw, plain.layers))


def qwen3(raw: Mapping[str, Any]) -> DecoderConfig:
    # The published models state the size of a head; 128 is what the reference assumes of one that does not.
    plain = llama.plain(raw, "qwen3", head_dim=128, biased=["attention_bias"])
    return replace(
        plain,
        query_key_norm=QueryKeyNorm(norm=Norm.RMS),
        local=_local(raw, plain.layers),
    )


def _local(raw: Mapping[str, Any], layers: int) -> Local | None:
    size = window(raw, 4096) if flag(raw, "use_sliding_window", False) else None
    first = layers if size is None else whole(raw, "max_window_layers", 28, least=0)
    return by_type(raw, layers, size, default=lambda layer: layer >= first)


QWEN2 = replace(llama.FAMILY, config=qwen2, neutral=NEUTRAL)
QWEN3 = replace(
    QWEN2,
    config=qwen3,
    names={
        **llama.NAMES,
        "blocks.{}.attention.query_norm": "model.layers.{}.self_attn.q_norm",
        "blocks.{}.attention.key_norm": "model.layers.{}.self_attn.k_norm",
    },
)

"""Qwen2 (arXiv 2407.10671), a LLaMA with query, key, value biases; Qwen3 (2505.09388), which norms them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Bias, DecoderConfig, Norm, QueryKeyNorm
from models.families import llama
from models.families.naming import Family
from models.families.reading import refuse

ONLY = {"use_sliding_window": False}
NEUTRAL = frozenset({"max_window_layers", "sliding_window"})  # of windows that are not used


def qwen2(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, ONLY)
    return replace(llama.config(raw), architecture="qwen2", biases=frozenset({Bias.QKV}))


def qwen3(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, ONLY)
    # The published models state it; 128 is what the reference assumes of one that does not.
    plain = llama.config(raw, head_dim=128)
    return replace(plain, architecture="qwen3", query_key_norm=QueryKeyNorm(norm=Norm.RMS))


QWEN2 = Family(config=qwen2, names=llama.NAMES, ignored=llama.BUFFERS, head="lm_head.weight", neutral=NEUTRAL)
QWEN3 = Family(
    config=qwen3,
    names={
        **llama.NAMES,
        "blocks.{}.attention.query_norm": "model.layers.{}.self_attn.q_norm",
        "blocks.{}.attention.key_norm": "model.layers.{}.self_attn.k_norm",
    },
    ignored=llama.BUFFERS,
    head="lm_head.weight",
    neutral=NEUTRAL,
)

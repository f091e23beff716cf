"""Gemma 3's text model (Gemma Team 2025, arXiv 2503.19786): Gemma 2 with normed queries and keys.

Most layers see a window, and are rotated by a base of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import DecoderConfig, Norm, QueryKeyNorm
from models.families.gemma import GEMMA2, WINDOW, cap, sandwiched
from models.families.reading import refuse, whole
from models.families.rotary import rotaries
from models.families.windows import by_type, window


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"attn_logit_softcapping": None})
    everywhere, nearby = rotaries(raw, theta=1_000_000.0, local_theta=10_000.0)
    plain = sandwiched(raw, "gemma3_text", positions=everywhere)
    size, every = window(raw, WINDOW), whole(raw, "sliding_window_pattern", 6)
    return replace(
        plain,
        query_key_norm=QueryKeyNorm(norm=Norm.RMS_OFFSET),
        local=by_type(raw, plain.layers, size, default=lambda layer: (layer + 1) % every > 0, rotary=nearby),
        logit_cap=cap(raw, "final_logit_softcapping", None),
    )


FAMILY = replace(
    GEMMA2,
    config=config,
    names={
        **GEMMA2.names,
        "blocks.{}.attention.query_norm": "model.layers.{}.self_attn.q_norm",
        "blocks.{}.attention.key_norm": "model.layers.{}.self_attn.k_norm",
    },
    neutral=frozenset({"_sliding_window_pattern"}),  # `layer_types`, beside it, says what it says
)

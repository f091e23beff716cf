"""OLMo (Groeneveld et al. 2024, arXiv 2402.00838), OLMo 2 (arXiv 2501.00656) and OLMo 3 (2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import DecoderConfig, Norm, QueryKeyNorm, Residual, Span
from models.families import llama
from models.families.reading import number, refuse
from models.families.rotary import rotaries
from models.families.windows import by_type, window
from models.positions import Rotary

THETA = 500_000.0  # of OLMo 3's rotation


def olmo(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"rms_norm_eps": None})
    clip = None if raw.get("clip_qkv") is None else number(raw, "clip_qkv")
    plain = llama.plain(raw, "olmo", biased=["attention_bias"])
    return replace(plain, norm=Norm.LAYER_BARE, norm_eps=1e-5, clip=clip)


def olmo2(raw: Mapping[str, Any], positions: Rotary | None = None) -> DecoderConfig:
    plain = llama.plain(raw, "olmo2", positions=positions, biased=["attention_bias"], norm_eps=1e-5)
    return replace(
        plain,
        residual=Residual.OUTPUT,
        norm_eps=number(raw, "rms_norm_eps", 1e-5),
        query_key_norm=QueryKeyNorm(norm=Norm.RMS, span=Span.ALL),
    )


def olmo3(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"rope_theta": THETA, "rope_local_base_freq": None})  # other bases are in `rope_parameters`
    everywhere, nearby = rotaries(raw, theta=THETA, local_theta=THETA)
    plain, size = olmo2(raw, positions=everywhere), window(raw, 4096)
    local = by_type(raw, plain.layers, size, default=lambda layer: (layer + 1) % 4 > 0, rotary=nearby)
    return replace(plain, architecture="olmo3", local=local)


OLMO = replace(llama.FAMILY, config=olmo)
OLMO2 = replace(
    llama.FAMILY,
    config=olmo2,
    names={
        **llama.NAMES,
        "blocks.{}.attention_norm": "model.layers.{}.post_attention_layernorm",
        "blocks.{}.attention.query_norm.norm": "model.layers.{}.self_attn.q_norm",
        "blocks.{}.attention.key_norm.norm": "model.layers.{}.self_attn.k_norm",
        "blocks.{}.mlp_norm": "model.layers.{}.post_feedforward_layernorm",
    },
)
OLMO3 = replace(OLMO2, config=olmo3)

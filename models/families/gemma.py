"""Gemma (Gemma Team 2024, arXiv 2403.08295) and Gemma 2 (arXiv 2408.00118)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Activation, DecoderConfig, Norm, Residual
from models.families import llama
from models.families.reading import ACTIVATIONS, choice, number, refuse
from models.families.windows import by_type, window
from models.positions import Rotary

TANH = "gelu_pytorch_tanh"
HEAD_DIM = 256  # of a file that does not say
WINDOW = 4096


def gemma(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"hidden_activation": TANH})
    # The first files say "gelu", and mean its approximation.
    named = {**ACTIVATIONS, "gelu": Activation.GELU_TANH}
    return replace(_plain(raw, "gemma"), activation=choice(raw, "hidden_act", named, TANH))


def gemma2(raw: Mapping[str, Any]) -> DecoderConfig:
    plain, size = sandwiched(raw, "gemma2"), window(raw, WINDOW)
    refuse(raw, {"sliding_window_size": size})  # the first files say it twice
    return replace(
        plain,
        local=by_type(raw, plain.layers, size, default=lambda layer: layer % 2 == 0),
        score_cap=cap(raw, "attn_logit_softcapping", 50.0),
        logit_cap=cap(raw, "final_logit_softcapping", 30.0),
    )


def _plain(raw: Mapping[str, Any], architecture: str, positions: Rotary | None = None) -> DecoderConfig:
    refuse(raw, {"use_bidirectional_attention": False})
    plain = llama.plain(
        raw, architecture, head_dim=HEAD_DIM, positions=positions, biased=["attention_bias"], tied=True
    )
    return replace(plain, norm=Norm.RMS_OFFSET, embedding_scale=plain.hidden_size**0.5)


def sandwiched(raw: Mapping[str, Any], architecture: str, positions: Rotary | None = None) -> DecoderConfig:
    """What Gemma 2 and 3 state alike."""
    refuse(raw, {"hidden_act": raw.get("hidden_activation", TANH)})
    return replace(
        _plain(raw, architecture, positions),
        activation=choice(raw, "hidden_activation", ACTIVATIONS, TANH),
        residual=Residual.SANDWICH,
        scale=number(raw, "query_pre_attn_scalar", 256) ** -0.5,
    )


def cap(raw: Mapping[str, Any], key: str, default: float | None) -> float | None:
    """null: none."""
    return None if raw.get(key, default) is None else number(raw, key, default)


GEMMA = replace(llama.FAMILY, config=gemma)
GEMMA2 = replace(
    GEMMA,
    config=gemma2,
    names={
        **llama.NAMES,
        "blocks.{}.attention_out_norm": "model.layers.{}.post_attention_layernorm",
        "blocks.{}.mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
        "blocks.{}.mlp_out_norm": "model.layers.{}.post_feedforward_layernorm",
    },
)

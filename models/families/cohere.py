"""Command R (Cohere 2024), in PaLM's shape (Chowdhery et al. 2022, arXiv 2204.02311, §2).

Attention and a gated MLP in parallel behind one norm, no biases, the head tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import DecoderConfig, Norm, QueryKeyNorm, Residual, Span
from models.families import llama
from models.families.naming import Family, Layout, Stored
from models.families.reading import flag, head_size, number, whole
from models.families.rotary import rotary

ATTENTION = "model.layers.{}.self_attn."


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    positions = rotary(raw, head_size(raw), theta=500_000.0)
    plain = llama.plain(raw, "cohere", positions=positions, biased=("attention_bias",), tied=True)
    normed = QueryKeyNorm(norm=Norm.LAYER_SCALED, span=Span.HEADS)
    return replace(
        plain,
        context_length=whole(raw, "model_max_length", plain.context_length),
        norm=Norm.LAYER_SCALED,
        norm_eps=number(raw, "layer_norm_eps", 1e-5),
        residual=Residual.PARALLEL_SHARED,
        query_key_norm=normed if flag(raw, "use_qk_norm", False) else None,
        logit_scale=number(raw, "logit_scale", 0.0625),
    )


FAMILY = Family(
    config=config,
    names={
        **llama.NAMES,
        "blocks.{}.attention.qkv": (
            Stored(ATTENTION + "q_proj", Layout.ROTARY_PAIRS),
            Stored(ATTENTION + "k_proj", Layout.ROTARY_PAIRS),
            ATTENTION + "v_proj",
        ),
        "blocks.{}.attention.query_norm": Stored(ATTENTION + "q_norm", Layout.HEADS_OF_ROTARY_PAIRS),
        "blocks.{}.attention.key_norm": Stored(ATTENTION + "k_norm", Layout.HEADS_OF_ROTARY_PAIRS),
    },
    ignored=llama.FAMILY.ignored,
    head="lm_head.weight",
)

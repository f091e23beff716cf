"""StableLM (Bellagente et al. 2024, arXiv 2402.17834): a LLaMA with LayerNorm that turns a part of heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Bias, DecoderConfig, Norm, QueryKeyNorm, Residual, Span
from models.families import llama
from models.families.naming import Layout, Stored
from models.families.reading import divided, flag, number, refuse
from models.families.rotary import rotary

HEAD_NORMS = "model.layers.{}.self_attn.%s_layernorm.norms.*.weight"


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"rms_norm_eps": None, "head_dim": None})
    head_dim = divided(raw, "hidden_size", "num_attention_heads")
    plain = llama.plain(raw, "stablelm", positions=rotary(raw, head_dim, partial=0.25))
    by_head = QueryKeyNorm(norm=Norm.LAYER_SCALED, span=Span.HEADS)
    return replace(
        plain,
        norm=Norm.LAYER,
        norm_eps=number(raw, "layer_norm_eps", 1e-5),
        residual=Residual.PARALLEL_SHARED if flag(raw, "use_parallel_residual", False) else Residual.PRE,
        biases=frozenset({Bias.QKV} if flag(raw, "use_qkv_bias", False) else ()),
        query_key_norm=by_head if flag(raw, "qk_layernorm", False) else None,
    )


FAMILY = replace(
    llama.FAMILY,
    config=config,
    names={
        **llama.NAMES,
        "blocks.{}.attention.query_norm.weight": Stored(HEAD_NORMS % "q", Layout.ROWS),
        "blocks.{}.attention.key_norm.weight": Stored(HEAD_NORMS % "k", Layout.ROWS),
    },
)

"""Phi 1, 1.5 and 2 (Gunasekar et al. 2023, arXiv 2306.11644; Li et al. 2023, arXiv 2309.05463)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Bias, DecoderConfig, Head, Mlp, Norm, QueryKeyNorm, Residual
from models.families import llama
from models.families.naming import Family
from models.families.reading import ACTIVATIONS, choice, flag, head_size, number, refuse, whole
from models.families.rotary import rotary


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"quantization_config": None})
    heads, size = whole(raw, "num_attention_heads"), head_size(raw)
    return DecoderConfig(
        architecture="phi",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "hidden_size"),
        layers=whole(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=whole(raw, "num_key_value_heads", heads),
        head_dim=size,
        mlp_size=whole(raw, "intermediate_size"),
        context_length=whole(raw, "max_position_embeddings"),
        norm=Norm.LAYER,
        norm_eps=number(raw, "layer_norm_eps", 1e-5),
        mlp=Mlp.PLAIN,
        activation=choice(raw, "hidden_act", ACTIVATIONS, "gelu_new"),
        residual=Residual.PARALLEL_SHARED,
        positions=rotary(raw, size, partial=0.5),
        head=Head.TIED if flag(raw, "tie_word_embeddings", False) else Head.UNTIED,
        biases=frozenset(Bias),
        query_key_norm=QueryKeyNorm(norm=Norm.LAYER) if flag(raw, "qk_layernorm", False) else None,
    )


FAMILY = Family(
    config=config,
    names={
        **llama.NAMES,
        "blocks.{}.attention.query_norm": "model.layers.{}.self_attn.q_layernorm",
        "blocks.{}.attention.key_norm": "model.layers.{}.self_attn.k_layernorm",
        "blocks.{}.attention.out": "model.layers.{}.self_attn.dense",
        "blocks.{}.mlp.up": "model.layers.{}.mlp.fc1",
        "blocks.{}.mlp.down": "model.layers.{}.mlp.fc2",
        "norm": "model.final_layernorm",
        "head.bias": "lm_head.bias",
    },
    ignored=llama.FAMILY.ignored,
    head="lm_head.weight",
)

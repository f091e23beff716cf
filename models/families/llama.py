"""LLaMA (Touvron et al. 2023, arXiv 2302.13971) and its like: SmolLM2, TinyLlama, Llama 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.config import DecoderConfig, Head, Mlp, Norm
from models.families.naming import Family, Names
from models.families.reading import (
    ACTIVATIONS,
    BIASES,
    biases,
    choice,
    flag,
    head_size,
    number,
    refuse,
    whole,
)
from models.families.rotary import rotary
from models.positions import Rotary


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"activation": "swiglu"})  # Falcon 3 says in its own word what `hidden_act` says
    return plain(raw, "llama", biased=tuple(BIASES))


def plain(
    raw: Mapping[str, Any],
    architecture: str,
    *,
    head_dim: int | None = None,
    positions: Rotary | None = None,
    biased: Sequence[str] = (),
    norm_eps: float = 1e-6,
    tied: bool = False,
) -> DecoderConfig:
    """What all relatives state alike; what else a family has is its own to read.

    `head_dim`, `norm_eps`, `tied`: what is meant where nothing is stated. `positions`: where they are read in
    another way than LLaMA's. `biased`: keys about biases that may be true.
    """
    refuse(raw, {"quantization_config": None})
    heads, size = whole(raw, "num_attention_heads"), head_size(raw, head_dim)
    return DecoderConfig(
        architecture=architecture,
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "hidden_size"),
        layers=whole(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=whole(raw, "num_key_value_heads", heads),
        head_dim=size,
        mlp_size=whole(raw, "intermediate_size"),
        context_length=whole(raw, "max_position_embeddings"),
        norm=Norm.RMS,
        norm_eps=number(raw, "rms_norm_eps", norm_eps),
        mlp=Mlp.GATED,
        activation=choice(raw, "hidden_act", ACTIVATIONS, "silu"),
        positions=positions or rotary(raw, size),
        biases=biases(raw, *biased),
        head=Head.TIED if flag(raw, "tie_word_embeddings", tied) else Head.UNTIED,
    )


NAMES: Names = {
    "embeddings.words": "model.embed_tokens",
    "blocks.{}.attention_norm": "model.layers.{}.input_layernorm",
    "blocks.{}.attention.qkv": (
        "model.layers.{}.self_attn.q_proj",
        "model.layers.{}.self_attn.k_proj",
        "model.layers.{}.self_attn.v_proj",
    ),
    "blocks.{}.attention.out": "model.layers.{}.self_attn.o_proj",
    "blocks.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "blocks.{}.mlp.gate_up": ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
    "blocks.{}.mlp.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head.linear": "lm_head",
}
FAMILY = Family(
    config=config,
    names=NAMES,
    ignored=("model.layers.*.self_attn.rotary_emb.inv_freq",),  # a buffer
    head="lm_head.weight",
    neutral=frozenset({"max_sequence_length"}),  # of LLaMA 1 and Vicuna: nothing is made of it
)

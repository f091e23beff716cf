"""LLaMA (Touvron et al. 2023) and its like: SmolLM2, TinyLlama, Llama 3; Mistral adds a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Bias, DecoderConfig, Head, Local, Mlp, Norm
from models.errors import UnsupportedModel
from models.families.naming import Family, Names
from models.families.reading import ACTIVATIONS, choice, divided, flag, number, refuse, rotary, whole

ONLY = {"quantization_config": None}


def config(raw: Mapping[str, Any], *, head_dim: int | None = None) -> DecoderConfig:
    """`head_dim`: what a configuration that does not state it means; None: hidden size / heads."""
    refuse(raw, ONLY)
    mixed = {str(kind) for kind in raw.get("layer_types") or ()} - {"full_attention"}
    if mixed:
        raise UnsupportedModel(
            f"`layer_types` has {', '.join(sorted(mixed))}; only full_attention is supported"
        )
    heads, head_size = whole(raw, "num_attention_heads"), _head_dim(raw, head_dim)
    biases = {Bias.QKV, Bias.ATTENTION_OUT} if flag(raw, "attention_bias", False) else set()
    if flag(raw, "mlp_bias", False):
        biases.add(Bias.MLP)
    return DecoderConfig(
        architecture="llama",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "hidden_size"),
        layers=whole(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=whole(raw, "num_key_value_heads", heads),
        head_dim=head_size,
        mlp_size=whole(raw, "intermediate_size"),
        context_length=whole(raw, "max_position_embeddings"),
        norm=Norm.RMS,
        norm_eps=number(raw, "rms_norm_eps", 1e-6),
        mlp=Mlp.GATED,
        activation=choice(raw, "hidden_act", ACTIVATIONS, "silu"),
        positions=rotary(raw, head_size),
        head=Head.TIED if flag(raw, "tie_word_embeddings", False) else Head.UNTIED,
        biases=frozenset(biases),
    )


def _head_dim(raw: Mapping[str, Any], default: int | None) -> int:
    if raw.get("head_dim", default) is None:
        return divided(raw, "hidden_size", "num_attention_heads")
    return whole(raw, "head_dim", default)


def mistral(raw: Mapping[str, Any]) -> DecoderConfig:
    """Jiang et al. 2023, arXiv 2310.06825: a query sees the last `sliding_window` tokens; null: all."""
    window = None if raw.get("sliding_window", 4096) is None else whole(raw, "sliding_window", 4096)
    plain = replace(config(raw), architecture="mistral")
    if window is None:
        return plain
    return replace(plain, local=Local(layers=frozenset(range(plain.layers)), window=window))


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
BUFFERS = ("model.layers.*.self_attn.rotary_emb.inv_freq",)

FAMILY = Family(config=config, names=NAMES, ignored=BUFFERS, head="lm_head.weight")
MISTRAL = Family(config=mistral, names=NAMES, ignored=BUFFERS, head="lm_head.weight")

"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, a bias everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Bias, DecoderConfig, Head, Mlp, Norm
from models.families.naming import Family, Layout, Names, Stored
from models.families.reading import ACTIVATIONS, choice, divided, flag, number, refuse, whole
from models.positions import Learned

ONLY = {
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
}


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, ONLY)
    rows, hidden_size = whole(raw, "n_positions"), whole(raw, "n_embd")
    return DecoderConfig(
        architecture="gpt2",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=hidden_size,
        layers=whole(raw, "n_layer"),
        heads=whole(raw, "n_head"),
        kv_heads=whole(raw, "n_head"),
        head_dim=divided(raw, "n_embd", "n_head"),
        mlp_size=whole(raw, "n_inner", 4 * hidden_size),
        context_length=rows,
        norm=Norm.LAYER,
        norm_eps=number(raw, "layer_norm_epsilon", 1e-5),
        mlp=Mlp.PLAIN,
        activation=choice(raw, "activation_function", ACTIVATIONS, "gelu_new"),
        positions=Learned(rows=rows),
        head=Head.TIED if flag(raw, "tie_word_embeddings", True) else Head.UNTIED,
        biases=frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP}),
        scale=None if flag(raw, "scale_attn_weights", True) else 1.0,
    )


SUMMARY = {
    f"summary_{part}" for part in ("activation", "first_dropout", "proj_to_labels", "type", "use_proj")
}
# `reorder_and_upcast_attn`: where the reference computes in float16.
NEUTRAL = frozenset({"attn_pdrop", "n_ctx", "predict_special_tokens", "reorder_and_upcast_attn"} | SUMMARY)
MASKS = ("h.*.attn.bias", "h.*.attn.masked_bias")  # the causal mask, as buffers

NAMES: Names = {
    "embeddings.words": "wte",
    "embeddings.positions": "wpe",
    "blocks.{}.attention_norm": "h.{}.ln_1",
    "blocks.{}.attention.qkv": Stored("h.{}.attn.c_attn", Layout.IN_OUT),
    "blocks.{}.attention.out": Stored("h.{}.attn.c_proj", Layout.IN_OUT),
    "blocks.{}.mlp_norm": "h.{}.ln_2",
    "blocks.{}.mlp.up": Stored("h.{}.mlp.c_fc", Layout.IN_OUT),
    "blocks.{}.mlp.down": Stored("h.{}.mlp.c_proj", Layout.IN_OUT),
    "norm": "ln_f",
    "head.linear": "lm_head",
}

FAMILY = Family(
    config=config,
    prefix="transformer.",
    names=NAMES,
    ignored=MASKS,
    head="lm_head.weight",
    neutral=NEUTRAL,
)

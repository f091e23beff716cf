"""BLOOM (BigScience 2022, arXiv 2211.05100): ALiBi, and a norm between the embeddings and the first block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Activation, Bias, DecoderConfig, Head, Mlp, Norm
from models.families.naming import Family, Layout, Stored
from models.families.reading import divided, flag, number, refuse, whole
from models.positions import Alibi

ONLY = {
    "apply_residual_connection_post_layernorm": False,
    "slow_but_exact": False,  # the reference leaves out biases where it is set
    "quantization_config": None,
}


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, ONLY)
    hidden_size = whole(raw, "hidden_size")
    return DecoderConfig(
        architecture="bloom",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=hidden_size,
        layers=whole(raw, "n_layer"),
        heads=whole(raw, "n_head"),
        kv_heads=whole(raw, "n_head"),
        head_dim=divided(raw, "hidden_size", "n_head"),
        mlp_size=4 * hidden_size,
        context_length=whole(raw, "seq_length", 2048),  # trained on; no table ends there
        norm=Norm.LAYER,
        norm_eps=number(raw, "layer_norm_epsilon", 1e-5),
        mlp=Mlp.PLAIN,
        activation=Activation.GELU_TANH,
        positions=Alibi(),
        head=Head.TIED if flag(raw, "tie_word_embeddings", True) else Head.UNTIED,
        biases=frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP}),
        embedding_norm=True,
    )


# How Megatron fused kernels and counted tensors while it trained these models.
MEGATRON = {
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "masked_softmax_fusion",
    "offset_alibi",
    "skip_bias_add",
    "skip_bias_add_qkv",
}

FAMILY = Family(
    config=config,
    prefix="transformer.",
    names={
        "embeddings.words": "word_embeddings",
        "embeddings.norm": "word_embeddings_layernorm",
        "blocks.{}.attention_norm": "h.{}.input_layernorm",
        "blocks.{}.attention.qkv": Stored("h.{}.self_attention.query_key_value", Layout.GROUPED_QKV),
        "blocks.{}.attention.out": "h.{}.self_attention.dense",
        "blocks.{}.mlp_norm": "h.{}.post_attention_layernorm",
        "blocks.{}.mlp.up": "h.{}.mlp.dense_h_to_4h",
        "blocks.{}.mlp.down": "h.{}.mlp.dense_4h_to_h",
        "norm": "ln_f",
        "head.linear": "lm_head",
    },
    head="lm_head.weight",
    neutral=frozenset(MEGATRON),
    keys={"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
)

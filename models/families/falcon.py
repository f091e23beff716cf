"""Falcon (Almazrouei et al. 2023, arXiv 2311.16867): attention and MLP in parallel, few key heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Bias, DecoderConfig, Head, Mlp, Norm, Residual
from models.errors import UnsupportedModel
from models.families.naming import Either, Family, Layout, Stored
from models.families.reading import ACTIVATIONS, choice, divided, flag, number, refuse, whole
from models.families.rotary import rotary
from models.positions import Alibi

ONLY = {"apply_residual_connection_post_layernorm": False, "ff_factor": 4, "quantization_config": None}


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, ONLY)
    hidden_size, head_dim = whole(raw, "hidden_size"), divided(raw, "hidden_size", "num_attention_heads")
    turned = rotary(raw, head_dim)  # files of models with ALiBi state it, too
    biased = flag(raw, "bias", False)
    return DecoderConfig(
        architecture="falcon",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=hidden_size,
        layers=whole(raw, "num_hidden_layers"),
        heads=whole(raw, "num_attention_heads"),
        kv_heads=_kv_heads(raw),
        head_dim=head_dim,
        mlp_size=whole(raw, "ffn_hidden_size", 4 * hidden_size),
        context_length=whole(raw, "max_position_embeddings", 2048),
        norm=Norm.LAYER,
        norm_eps=number(raw, "layer_norm_epsilon", 1e-5),
        mlp=Mlp.PLAIN,
        activation=choice(raw, "activation", ACTIVATIONS, "gelu"),
        positions=Alibi(scale=head_dim**-0.5, rounded=True) if flag(raw, "alibi", False) else turned,
        residual=_residual(raw),
        head=Head.TIED if flag(raw, "tie_word_embeddings", True) else Head.UNTIED,
        biases=frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP} if biased else ()),
    )


def _kv_heads(raw: Mapping[str, Any]) -> int:
    heads = whole(raw, "num_attention_heads")
    stated = whole(raw, "num_kv_heads", heads)
    shared = flag(raw, "multi_query", "multi_query" not in raw)  # null is false
    if flag(raw, "new_decoder_architecture", False):
        return stated
    if not shared and stated != heads:
        raise UnsupportedModel(
            f"`num_kv_heads` is {stated}, but `multi_query` false means one for each query"
        )
    return 1 if shared else heads


def _residual(raw: Mapping[str, Any]) -> Residual:
    new = flag(raw, "new_decoder_architecture", False)
    parallel = flag(raw, "parallel_attn", "parallel_attn" not in raw)
    norms = whole(raw, "num_ln_in_parallel_attn", 2 if new else 1)
    if not parallel:
        refuse(raw, {"new_decoder_architecture": False})
        return Residual.PRE
    if norms > (2 if new else 1):
        raise UnsupportedModel(f"`num_ln_in_parallel_attn` is {norms}; supported: 1, in newer models also 2")
    return Residual.PARALLEL if norms == 2 else Residual.PARALLEL_SHARED


FAMILY = Family(
    config=config,
    prefix="transformer.",
    names={
        "embeddings.words": "word_embeddings",
        "blocks.{}.attention_norm": Either(("h.{}.ln_attn", "h.{}.input_layernorm")),
        "blocks.{}.attention.qkv": Stored("h.{}.self_attention.query_key_value", Layout.GROUPED_QKV),
        "blocks.{}.attention.out": "h.{}.self_attention.dense",
        "blocks.{}.mlp_norm": Either(("h.{}.ln_mlp", "h.{}.post_attention_layernorm")),
        "blocks.{}.mlp.up": "h.{}.mlp.dense_h_to_4h",
        "blocks.{}.mlp.down": "h.{}.mlp.dense_4h_to_h",
        "norm": "ln_f",
        "head.linear": "lm_head",
    },
    head="lm_head.weight",
    keys={"n_embed": "hidden_size"},
)

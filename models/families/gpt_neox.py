"""GPT-NeoX (Black et al. 2022, arXiv 2204.06745), Pythia (2304.01373), Dolly 2, RedPajama-INCITE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Bias, DecoderConfig, Head, Mlp, Norm, Residual
from models.families.naming import Family, Layout, Stored
from models.families.reading import ACTIVATIONS, choice, divided, flag, number, refuse, whole
from models.families.rotary import rotary


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"quantization_config": None})
    head_dim = divided(raw, "hidden_size", "num_attention_heads")
    attention = {Bias.QKV, Bias.ATTENTION_OUT} if flag(raw, "attention_bias", True) else set()
    return DecoderConfig(
        architecture="gpt_neox",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "hidden_size"),
        layers=whole(raw, "num_hidden_layers"),
        heads=whole(raw, "num_attention_heads"),
        kv_heads=whole(raw, "num_attention_heads"),
        head_dim=head_dim,
        mlp_size=whole(raw, "intermediate_size"),
        context_length=whole(raw, "max_position_embeddings"),
        norm=Norm.LAYER,
        norm_eps=number(raw, "layer_norm_eps", 1e-5),
        mlp=Mlp.PLAIN,
        activation=choice(raw, "hidden_act", ACTIVATIONS, "gelu"),
        positions=rotary(raw, head_dim, partial=0.25),
        residual=Residual.PARALLEL if flag(raw, "use_parallel_residual", True) else Residual.PRE,
        head=Head.TIED if flag(raw, "tie_word_embeddings", False) else Head.UNTIED,
        biases=frozenset({Bias.MLP} | attention),
    )


FAMILY = Family(
    config=config,
    prefix="gpt_neox.",
    names={
        "embeddings.words": "embed_in",
        "blocks.{}.attention_norm": "layers.{}.input_layernorm",
        "blocks.{}.attention.qkv": Stored("layers.{}.attention.query_key_value", Layout.GROUPED_QKV),
        "blocks.{}.attention.out": "layers.{}.attention.dense",
        "blocks.{}.mlp_norm": "layers.{}.post_attention_layernorm",
        "blocks.{}.mlp.up": "layers.{}.mlp.dense_h_to_4h",
        "blocks.{}.mlp.down": "layers.{}.mlp.dense_4h_to_h",
        "norm": "final_layer_norm",
        "head.linear": "lm_head",
    },
    ignored=(  # buffers: the causal mask, the frequencies
        "layers.*.attention.bias",
        "layers.*.attention.masked_bias",
        "layers.*.attention.rotary_emb.inv_freq",
    ),
    head="lm_head.weight",
    neutral=frozenset({"custom_pipelines", "is_decoder"}),
    suffixes={"embed_out.weight": "lm_head.weight"},
    keys={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
)

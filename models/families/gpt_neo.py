"""GPT-Neo (Black et al. 2021): GPT-2 with unscaled scores, and layers that see the last tokens only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Bias, DecoderConfig, Head, Mlp, Norm
from models.families import gpt2
from models.families.naming import Family
from models.families.reading import ACTIVATIONS, choice, divided, flag, number, refuse, whole
from models.families.windows import by_turns
from models.positions import Learned

ATTENTION = "h.{}.attn.attention."


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"quantization_config": None})
    rows, hidden_size = whole(raw, "max_position_embeddings"), whole(raw, "hidden_size")
    layers, window = whole(raw, "num_layers"), whole(raw, "window_size", 256)
    return DecoderConfig(
        architecture="gpt_neo",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=hidden_size,
        layers=layers,
        heads=whole(raw, "num_heads"),
        kv_heads=whole(raw, "num_heads"),
        head_dim=divided(raw, "hidden_size", "num_heads"),
        mlp_size=whole(raw, "intermediate_size", 4 * hidden_size),
        context_length=rows,
        norm=Norm.LAYER,
        norm_eps=number(raw, "layer_norm_epsilon", 1e-5),
        mlp=Mlp.PLAIN,
        activation=choice(raw, "activation_function", ACTIVATIONS, "gelu_new"),
        positions=Learned(rows=rows),
        head=Head.TIED if flag(raw, "tie_word_embeddings", True) else Head.UNTIED,
        biases=frozenset({Bias.ATTENTION_OUT, Bias.MLP}),
        scale=1.0,
        local=by_turns(raw, layers, window),
    )


FAMILY = Family(
    config=config,
    prefix="transformer.",
    names={
        **gpt2.NAMES,
        "blocks.{}.attention.qkv": (ATTENTION + "q_proj", ATTENTION + "k_proj", ATTENTION + "v_proj"),
        "blocks.{}.attention.out": ATTENTION + "out_proj",
        "blocks.{}.mlp.up": "h.{}.mlp.c_fc",
        "blocks.{}.mlp.down": "h.{}.mlp.c_proj",
    },
    ignored=("h.*.attn.attention.bias", "h.*.attn.attention.masked_bias"),  # masks, as buffers
    head="lm_head.weight",
    neutral=gpt2.NEUTRAL | {"embed_dropout", "resid_dropout"},
)

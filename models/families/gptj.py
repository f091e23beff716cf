"""GPT-J (Wang, Komatsuzaki 2021): attention and MLP beside each other behind one norm, rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Bias, DecoderConfig, Head, Residual
from models.families import gpt2
from models.families.naming import Family, Layout, Stored
from models.families.reading import flag, refuse, whole
from models.positions import Rotary


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"rotary": True, "scale_attn_weights": True})
    return replace(
        gpt2.config(raw),
        architecture="gptj",
        positions=Rotary(size=whole(raw, "rotary_dim", 64)),
        residual=Residual.PARALLEL_SHARED,
        head=Head.TIED if flag(raw, "tie_word_embeddings", False) else Head.UNTIED,
        biases=frozenset({Bias.MLP, Bias.HEAD}),
    )


FAMILY = Family(
    config=config,
    prefix="transformer.",
    names={
        "embeddings.words": "wte",
        "blocks.{}.attention_norm": "h.{}.ln_1",
        "blocks.{}.attention.qkv": (
            Stored("h.{}.attn.q_proj", Layout.ROTARY_PAIRS),
            Stored("h.{}.attn.k_proj", Layout.ROTARY_PAIRS),
            "h.{}.attn.v_proj",
        ),
        "blocks.{}.attention.out": "h.{}.attn.out_proj",
        "blocks.{}.mlp.up": "h.{}.mlp.fc_in",
        "blocks.{}.mlp.down": "h.{}.mlp.fc_out",
        "norm": "ln_f",
        "head.linear": "lm_head",
        "head.bias": "lm_head.bias",
    },
    ignored=gpt2.MASKS,
    head="lm_head.weight",
    neutral=gpt2.NEUTRAL,
)

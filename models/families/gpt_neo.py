"""GPT-Neo (Black et al. 2021): GPT-2 with unscaled scores, and layers that see the last tokens only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.config import Bias, DecoderConfig, Head, Local, Mlp, Norm
from models.errors import UnsupportedModel
from models.families import gpt2
from models.families.naming import Family
from models.families.reading import ACTIVATIONS, choice, divided, flag, number, refuse, whole
from models.positions import Learned

ALTERNATING = [[["global", "local"], 12]]
ATTENTION = "h.{}.attn.attention."


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, {"quantization_config": None})
    rows, hidden_size = whole(raw, "max_position_embeddings"), whole(raw, "hidden_size")
    kinds = _kinds(raw)
    refuse(raw, {"num_layers": len(kinds)})
    local = Local(
        layers=frozenset(layer for layer, kind in enumerate(kinds) if kind == "local"),
        window=whole(raw, "window_size", 256),
    )
    return DecoderConfig(
        architecture="gpt_neo",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=hidden_size,
        layers=len(kinds),
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
        local=local if local.layers else None,
    )


def _kinds(raw: Mapping[str, Any]) -> Sequence[str]:
    """Of each layer. `attention_types` repeats, as `ALTERNATING` does, what `attention_layers` spells out."""
    types: Any = raw.get("attention_types") or ALTERNATING
    try:
        kinds = [kind for part, times in types for kind in part * times]
    except (TypeError, ValueError) as error:
        raise UnsupportedModel(f"`attention_types` is {types!r}; something like {ALTERNATING}") from error
    if unknown := [kind for kind in kinds if kind not in ("global", "local")]:
        raise UnsupportedModel(f"`attention_types` has {unknown[0]!r}; supported: global, local")
    if raw.get("attention_layers", kinds) != kinds:
        raise UnsupportedModel(f"`attention_layers` is not what `attention_types` says: {kinds}")
    return kinds


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

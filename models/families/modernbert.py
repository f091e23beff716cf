"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): pre-norm, rotary, gated; most layers see the near."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import EncoderConfig, EncoderHead, HeadTask, Mlp, Norm, Pooling, Residual
from models.families.naming import Family, Names
from models.families.reading import ACTIVATIONS, biases, choice, divided, flag, number, refuse, whole
from models.families.rotary import rotaries
from models.families.windows import by_type

ONLY = {"tie_word_embeddings": True, "quantization_config": None, "rope_scaling": None}
POOLINGS = {"cls": Pooling.CLS, "mean": Pooling.MEAN}


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, ONLY)
    head_dim, layers = divided(raw, "hidden_size", "num_attention_heads"), whole(raw, "num_hidden_layers")
    norm = Norm.LAYER if flag(raw, "norm_bias", False) else Norm.LAYER_SCALED
    everywhere, nearby = rotaries(raw, theta=160_000.0, local_theta=10_000.0)
    period, window = whole(raw, "global_attn_every_n_layers", 3), whole(raw, "local_attention", 128)
    return EncoderConfig(
        architecture="modernbert",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "hidden_size"),
        layers=layers,
        heads=whole(raw, "num_attention_heads"),
        head_dim=head_dim,
        mlp_size=whole(raw, "intermediate_size"),
        context_length=whole(raw, "max_position_embeddings"),
        norm=norm,
        norm_eps=number(raw, "norm_eps", 1e-5),
        mlp=Mlp.GATED,
        activation=choice(raw, "hidden_activation", ACTIVATIONS, "gelu"),
        residual=Residual.PRE,
        biases=biases(raw, "attention_bias", "mlp_bias"),
        final_norm=True,
        first_norm=False,
        positions=everywhere,
        local=by_type(raw, layers, window // 2, default=lambda layer: layer % period != 0, rotary=nearby),
        tasks=_heads(raw, norm),
    )


def _heads(raw: Mapping[str, Any], norm: Norm) -> Mapping[HeadTask, EncoderHead]:
    first: dict[str, Any] = {
        "activation": choice(raw, "classifier_activation", ACTIVATIONS, "gelu"),
        "norm": norm,
        "transform_bias": flag(raw, "classifier_bias", False),
    }
    return {
        HeadTask.MASKED_LM: EncoderHead(**first, bias=flag(raw, "decoder_bias", True)),
        HeadTask.SEQUENCE: EncoderHead(**first, pooling=choice(raw, "classifier_pooling", POOLINGS, "cls")),
        HeadTask.TOKEN: EncoderHead(**first),
        HeadTask.SPAN: EncoderHead(**first),
    }


BODY: Names = {
    "embeddings.words": "embeddings.tok_embeddings",
    "embeddings.norm": "embeddings.norm",
    "blocks.{}.attention_norm": "layers.{}.attn_norm",
    "blocks.{}.attention.qkv": "layers.{}.attn.Wqkv",
    "blocks.{}.attention.out": "layers.{}.attn.Wo",
    "blocks.{}.mlp_norm": "layers.{}.mlp_norm",
    "blocks.{}.mlp.gate_up": "layers.{}.mlp.Wi",
    "blocks.{}.mlp.down": "layers.{}.mlp.Wo",
    "norm": "final_norm",
}
FIRST: Names = {"head.transform": "head.dense", "head.norm": "head.norm"}
SCORES: Names = {**FIRST, "head.out": "classifier"}

FAMILY = Family(
    config=config,
    prefix="model.",
    names=BODY,
    heads=dict.fromkeys(HeadTask, SCORES) | {HeadTask.MASKED_LM: {**FIRST, "head.bias": "decoder.bias"}},
    head="decoder.weight",
    keys={"global_rope_theta": "rope_theta", "local_rope_theta": "rope_local_base_freq"},
    # Its own epsilon is `norm_eps`; of old files, which nobody has read.
    neutral=frozenset({"layer_norm_eps", "position_embedding_type"}),
)

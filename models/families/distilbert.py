"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108): half of BERT's blocks, no token types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Activation, EncoderConfig
from models.families import encoder_heads
from models.families.naming import Family, Names
from models.families.reading import ACTIVATIONS, choice, divided, refuse, whole
from models.positions import Learned

ONLY = {"quantization_config": None, "tie_word_embeddings": True}


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, ONLY)
    rows, activation = whole(raw, "max_position_embeddings"), choice(raw, "activation", ACTIVATIONS, "gelu")
    return EncoderConfig(
        architecture="distilbert",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "dim"),
        layers=whole(raw, "n_layers"),
        heads=whole(raw, "n_heads"),
        head_dim=divided(raw, "dim", "n_heads"),
        mlp_size=whole(raw, "hidden_dim"),
        context_length=rows,
        norm_eps=1e-12,
        activation=activation,
        positions=Learned(rows=rows),
        tasks=encoder_heads.heads(activation, pooled=Activation.RELU),
    )


BODY: Names = {
    "embeddings.words": "embeddings.word_embeddings",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "blocks.{}.attention.qkv": tuple(f"transformer.layer.{{}}.attention.{part}_lin" for part in "qkv"),
    "blocks.{}.attention.out": "transformer.layer.{}.attention.out_lin",
    "blocks.{}.attention_norm": "transformer.layer.{}.sa_layer_norm",
    "blocks.{}.mlp.up": "transformer.layer.{}.ffn.lin1",
    "blocks.{}.mlp.down": "transformer.layer.{}.ffn.lin2",
    "blocks.{}.mlp_norm": "transformer.layer.{}.output_layer_norm",
}
MASKED_LM: Names = {
    "head.transform": "vocab_transform",
    "head.norm": "vocab_layer_norm",
    "head.bias": "vocab_projector.bias",
}

FAMILY = Family(
    config=config,
    prefix="distilbert.",
    names=BODY,
    heads=encoder_heads.names(MASKED_LM, pooled="pre_classifier"),
    head="vocab_projector.weight",
    ignored=("embeddings.position_ids",),
    # How the table of positions was first filled: the checkpoint has the table.
    neutral=frozenset({"sinusoidal_pos_embds"}),
)

"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108): half of BERT's blocks, no token types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import EncoderConfig
from models.families.naming import Family
from models.families.reading import ACTIVATIONS, choice, divided, refuse, whole
from models.positions import Learned

# `sinusoidal_pos_embds` only says how the table of positions was first filled: the checkpoint has the table.
ONLY = {"quantization_config": None, "tie_word_embeddings": True}


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, ONLY)
    divided(raw, "dim", "n_heads")
    rows = whole(raw, "max_position_embeddings")
    return EncoderConfig(
        architecture="distilbert",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "dim"),
        layers=whole(raw, "n_layers"),
        heads=whole(raw, "n_heads"),
        mlp_size=whole(raw, "hidden_dim"),
        context_length=rows,
        norm_eps=1e-12,
        activation=choice(raw, "activation", ACTIVATIONS, "gelu"),
        positions=Learned(rows=rows),
    )


FAMILY = Family(
    config=config,
    prefix="distilbert.",
    names={
        "embeddings.words": "embeddings.word_embeddings",
        "embeddings.positions": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "blocks.{}.attention.qkv": (
            "transformer.layer.{}.attention.q_lin",
            "transformer.layer.{}.attention.k_lin",
            "transformer.layer.{}.attention.v_lin",
        ),
        "blocks.{}.attention.out": "transformer.layer.{}.attention.out_lin",
        "blocks.{}.attention_norm": "transformer.layer.{}.sa_layer_norm",
        "blocks.{}.mlp.up": "transformer.layer.{}.ffn.lin1",
        "blocks.{}.mlp.down": "transformer.layer.{}.ffn.lin2",
        "blocks.{}.mlp_norm": "transformer.layer.{}.output_layer_norm",
        "head.transform": "vocab_transform",
        "head.norm": "vocab_layer_norm",
        "head.bias": "vocab_projector.bias",
    },
    ignored=("embeddings.position_ids", "vocab_projector.weight"),
    neutral=frozenset({"qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds"}),
)

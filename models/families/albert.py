"""ALBERT (Lan et al. 2019, arXiv 1909.11942): a BERT of smaller tables, whose layers share their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import EncoderConfig, Sharing
from models.families import bert, encoder_heads
from models.families.naming import Either, Family, Names
from models.families.reading import ACTIVATIONS, choice, refuse, whole

# Of older files; nobody has read them for years.
ONLY = {
    "down_scale_factor": 1,
    "gap_size": 0,
    "layers_to_keep": [],
    "net_structure_type": 0,
    "num_memory_blocks": 0,
}


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, ONLY)
    activation = choice(raw, "hidden_act", ACTIVATIONS, "gelu_new")
    sharing = Sharing(groups=whole(raw, "num_hidden_groups", 1), blocks=whole(raw, "inner_group_num", 1))
    return replace(
        bert.config(raw),
        activation=activation,
        embedding_size=whole(raw, "embedding_size", 128),
        sharing=sharing,
        tasks=encoder_heads.heads(activation),
    )


_LAYER = "encoder.albert_layer_groups.{}.albert_layers.{}"
BODY: Names = {
    "embeddings.words": "embeddings.word_embeddings",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.segments": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "embeddings.project": "encoder.embedding_hidden_mapping_in",
    "blocks.{}.{}.attention.qkv": tuple(f"{_LAYER}.attention.{part}" for part in ("query", "key", "value")),
    "blocks.{}.{}.attention.out": f"{_LAYER}.attention.dense",
    "blocks.{}.{}.attention_norm": f"{_LAYER}.attention.LayerNorm",
    "blocks.{}.{}.mlp.up": f"{_LAYER}.ffn",
    "blocks.{}.{}.mlp.down": f"{_LAYER}.ffn_output",
    "blocks.{}.{}.mlp_norm": f"{_LAYER}.full_layer_layer_norm",
}
MASKED_LM: Names = {
    "head.transform": "predictions.dense",
    "head.norm": "predictions.LayerNorm",
    "head.bias": Either(("predictions.bias", "predictions.decoder.bias")),
}

FAMILY = Family(
    config=config,
    prefix="albert.",
    names=BODY,
    heads=encoder_heads.names(MASKED_LM, pooled="pooler"),
    head="predictions.decoder.weight",
    ignored=(*bert.BUFFERS, "predictions.decoder.bias", "sop_classifier.*"),
)

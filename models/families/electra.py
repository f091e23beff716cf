"""ELECTRA (Clark et al. 2020, arXiv 2003.10555): a BERT that learns which tokens another has replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Activation, EncoderConfig, EncoderHead, HeadTask
from models.families import bert, encoder_heads
from models.families.naming import Family, Names
from models.families.reading import whole


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    plain = bert.config(raw)
    size = whole(raw, "embedding_size", 128)
    heads = encoder_heads.heads(Activation.GELU, pooled=Activation.GELU)
    return replace(
        plain,
        embedding_size=None if size == plain.hidden_size else size,
        tasks={**heads, HeadTask.REPLACED: EncoderHead(activation=plain.activation)},
    )


MASKED_LM: Names = {
    "head.transform": "generator_predictions.dense",
    "head.norm": "generator_predictions.LayerNorm",
    "head.bias": "generator_lm_head.bias",
}
REPLACED: Names = {
    "head.transform": "discriminator_predictions.dense",
    "head.out": "discriminator_predictions.dense_prediction",
}

FAMILY = Family(
    config=config,
    prefix="electra.",
    names={**bert.BODY, "embeddings.project": "embeddings_project"},
    heads={
        **encoder_heads.names(MASKED_LM, pooled="classifier.dense", out="classifier.out_proj"),
        HeadTask.REPLACED: REPLACED,
    },
    head="generator_lm_head.weight",
    ignored=("embeddings.position_ids",),
)

"""MPNet (Song et al. 2020, arXiv 2004.09297): positions by number, and by distance, as T5 has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Activation, EncoderConfig
from models.errors import UnsupportedModel
from models.families import bert, encoder_heads, roberta
from models.families.naming import Family, Names
from models.families.reading import refuse, whole
from models.positions import Learned, Relative

OFFSET = 2  # as fairseq numbers positions; whatever token pads


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, {"relative_attention_num_buckets": 32})
    rows = whole(raw, "max_position_embeddings")
    if rows <= OFFSET:
        raise UnsupportedModel(f"`max_position_embeddings` is {rows}; positions begin at {OFFSET}")
    return replace(
        bert.config(raw),
        context_length=rows - OFFSET,
        positions=Learned(rows=rows, offset=OFFSET),
        relative=Relative(),
        segments=0,
        tasks=encoder_heads.heads(Activation.GELU),
    )


BODY: Names = {
    **bert.BODY,
    "sights.bias.table": "encoder.relative_attention_bias",
    "blocks.{}.attention.qkv": tuple(f"encoder.layer.{{}}.attention.attn.{part}" for part in "qkv"),
    "blocks.{}.attention.out": "encoder.layer.{}.attention.attn.o",
    "blocks.{}.attention_norm": "encoder.layer.{}.attention.LayerNorm",
}

FAMILY = Family(
    config=config,
    prefix="mpnet.",
    names=BODY,
    heads=encoder_heads.names(roberta.MASKED_LM, pooled="classifier.dense", out="classifier.out_proj"),
    head="lm_head.decoder.weight",
    ignored=(*bert.BUFFERS, "lm_head.decoder.bias"),
)

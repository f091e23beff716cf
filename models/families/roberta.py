"""RoBERTa (Liu et al. 2019, arXiv 1907.11692): BERT with positions that start behind the padding token's.

XLM-R (Conneau et al. 2019, 1911.02116) and CamemBERT (Martin et al. 2019, 1911.03894) were trained on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Activation, EncoderConfig
from models.errors import UnsupportedModel
from models.families import bert, encoder_heads
from models.families.naming import Either, Family, Names
from models.families.reading import whole
from models.positions import Learned


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    rows = whole(raw, "max_position_embeddings")
    # fairseq numbers positions from the padding token's id + 1, and keeps rows for what lies below.
    padding = whole(raw, "pad_token_id", 1, least=0)
    if padding >= rows - 1:
        raise UnsupportedModel(
            f"`pad_token_id` is {padding}; positions are counted from it, and there are {rows}"
        )
    return replace(
        bert.config(raw),
        context_length=rows - padding - 1,
        positions=Learned(rows=rows, offset=padding + 1),
        tasks=encoder_heads.heads(Activation.GELU),
    )


MASKED_LM: Names = {
    "head.transform": "lm_head.dense",
    "head.norm": "lm_head.layer_norm",
    "head.bias": Either(("lm_head.bias", "lm_head.decoder.bias")),
}

FAMILY = Family(
    config=config,
    prefix="roberta.",
    names=bert.BODY,
    heads=encoder_heads.names(MASKED_LM, pooled="classifier.dense", out="classifier.out_proj"),
    head="lm_head.decoder.weight",
    ignored=(*bert.BUFFERS, "lm_head.decoder.bias"),
)

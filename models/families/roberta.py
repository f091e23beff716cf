"""RoBERTa (Liu et al. 2019, arXiv 1907.11692): BERT with positions that start at 2 and another head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import EncoderConfig
from models.errors import UnsupportedModel
from models.families import bert
from models.families.naming import Family
from models.families.reading import refuse, whole
from models.positions import Learned

ONLY = {"hidden_act": "gelu"}  # of the blocks; the head's is fixed, and ours share one


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, ONLY)
    rows = whole(raw, "max_position_embeddings")
    # fairseq numbers positions from the padding token's id + 1, and keeps rows for what lies below.
    padding = raw.get("pad_token_id", 1)
    if not isinstance(padding, int) or not 0 <= padding < rows - 1:
        raise UnsupportedModel(f"`pad_token_id` is {padding!r}; positions are counted from it")
    return replace(
        bert.config(raw),
        architecture="roberta",
        context_length=rows - padding - 1,
        positions=Learned(rows=rows, offset=padding + 1),
    )


FAMILY = Family(
    config=config,
    prefix="roberta.",
    names={
        **bert.BODY,
        "head.transform": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
        "head.bias": "lm_head.bias",
    },
    ignored=("embeddings.position_ids", "pooler.*", "lm_head.decoder.*"),
)

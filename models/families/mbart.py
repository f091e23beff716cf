"""mBART (Liu et al. 2020, arXiv 2001.08210), mBART-50: BART, normalised before each part and behind all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Residual, Seq2SeqConfig
from models.families import bart
from models.families.bart_stacks import stacks
from models.families.reading import refuse


def config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    refuse(raw, {"tie_word_embeddings": True})
    return stacks(
        raw,
        "mbart",
        positions=bart.learned(raw),
        residual=Residual.PRE,
        embedding_norm=True,
        final_norm=True,
    )


FAMILY = replace(bart.FAMILY, config=config)

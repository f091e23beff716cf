"""PEGASUS (Zhang et al. 2019, arXiv 1912.08777): mBART's wiring, with positions as sines and cosines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Residual, Seq2SeqConfig
from models.families import bart
from models.families.bart_stacks import stacks
from models.families.reading import refuse
from models.positions import Sinusoidal


def config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    refuse(raw, {"tie_word_embeddings": True})
    return stacks(
        raw,
        "pegasus",
        positions=Sinusoidal(),
        residual=Residual.PRE,
        embedding_norm=False,
        final_norm=True,
        start=0,
    )


FAMILY = replace(
    bart.FAMILY, config=config, ignored=("encoder.embed_positions.weight", "decoder.embed_positions.weight")
)

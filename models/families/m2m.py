"""M2M-100 (Fan et al. 2020, arXiv 2010.11125) and NLLB (NLLB Team 2022, arXiv 2207.04672)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Residual, Seq2SeqConfig
from models.families import bart
from models.families.bart_stacks import stacks
from models.families.reading import refuse, whole
from models.positions import Sinusoidal


def config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    """Positions are counted from the number behind that of the padding token, as fairseq does."""
    refuse(raw, {"tie_word_embeddings": True})
    first = whole(raw, "pad_token_id", 1, least=0) + 1
    both = stacks(
        raw,
        "m2m_100",
        positions=Sinusoidal(offset=first, inclusive=True),
        residual=Residual.PRE,
        embedding_norm=False,
        final_norm=True,
        start=2,
        activation="relu",
        scaled=True,
    )
    return replace(both, logit_bias=False)


FAMILY = replace(
    bart.FAMILY, config=config, ignored=("encoder.embed_positions.weights", "decoder.embed_positions.weights")
)

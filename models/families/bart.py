"""BART (Lewis et al. 2019, arXiv 1910.13461): the Transformer of 2017 with learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Residual, Seq2SeqConfig
from models.families.bart_names import COPIES, NAMES
from models.families.bart_stacks import stacks
from models.families.naming import Family
from models.families.reading import refuse, whole
from models.positions import Learned

# Dropout, how DistilBART was trained, what once chose among tokenizers and texts, and what
# `final_logits_bias` says for itself.
NEUTRAL = frozenset(
    {
        "activation_dropout",
        "add_bias_logits",
        "classif_dropout",
        "decoder_layerdrop",
        "encoder_layerdrop",
        "extra_pos_embeddings",
        "force_bos_token_to_be_generated",
        "num_hidden_layers",
        "output_past",
        "replacing_rate",
        "save_step",
    }
)


def config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    refuse(raw, {"tie_word_embeddings": True})
    return stacks(
        raw,
        "bart",
        positions=learned(raw),
        residual=Residual.POST,
        embedding_norm=True,
        final_norm=False,
        start=2,
    )


def learned(raw: Mapping[str, Any]) -> Learned:
    """Two rows stand before that of the first position."""
    return Learned(rows=whole(raw, "max_position_embeddings") + 2, offset=2)


FAMILY = Family(
    config=config,
    prefix="model.",
    names=NAMES,
    copies=COPIES,
    ignored=("encoder.version", "decoder.version"),
    neutral=NEUTRAL,
    head="lm_head.weight",
)

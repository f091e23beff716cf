"""Marian (Junczys-Dowmunt et al. 2018, arXiv 1804.00344), as OPUS-MT trains it: the Transformer of 2017."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Head, Residual, Seq2SeqConfig
from models.errors import UnsupportedModel
from models.families import pegasus
from models.families.bart_stacks import stacks
from models.families.reading import flag, whole
from models.positions import Sinusoidal


def config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    """Source and answer may have vocabularies of their own, the answer's head a table of its own."""
    both = stacks(
        raw,
        "marian",
        positions=Sinusoidal(),
        residual=Residual.POST,
        embedding_norm=False,
        final_norm=False,
        start=raw.get("pad_token_id"),
    )
    words = whole(raw, "decoder_vocab_size", both.vocab_size)
    tied = flag(raw, "tie_word_embeddings", True)
    if not flag(raw, "share_encoder_decoder_embeddings", True):
        head = Head.TIED if tied else Head.UNTIED
        return replace(both, decoder=replace(both.decoder, vocab_size=words, head=head), shared=False)
    if words != both.vocab_size or not tied:
        raise UnsupportedModel(
            "with `share_encoder_decoder_embeddings`, `decoder_vocab_size` must be `vocab_size` and "
            f"`tie_word_embeddings` true; they are {words}, {both.vocab_size} and {tied}"
        )
    return both


FAMILY = replace(pegasus.FAMILY, config=config)

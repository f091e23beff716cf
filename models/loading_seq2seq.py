"""From a folder to an encoder-decoder that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from models.config import Head, Seq2SeqConfig
from models.families.naming import Family
from models.filling import Tied, alike, fill, provides
from models.layouts import HeadShape
from models.seq2seq import Seq2Seq
from models.target import Target
from models.weights.checkpoint import Checkpoint

_WORDS = "decoder.embeddings.words.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSeq2Seq:
    """An encoder-decoder ready to run. `parameters` counts elements, shared tables once."""

    config: Seq2SeqConfig
    model: Seq2Seq
    fingerprint: str
    parameters: int


def load_seq2seq(
    checkpoint: Checkpoint, family: Family, config: Seq2SeqConfig, target: Target
) -> LoadedSeq2Seq:
    """Raises WeightsMismatch listing every tensor that is missing, left over, or no copy of what it should be
    one of."""
    config = _as_stored(checkpoint, family, config)
    with torch.device("meta"):
        model = Seq2Seq(config)
    target.materialize(model, checkpoint)
    shape = HeadShape.of(config.decoder)
    fill(model, checkpoint, family, shape, tied=_tied(family, config), body="")
    return LoadedSeq2Seq(
        config=config,
        parameters=target.finish(model),
        model=model,
        fingerprint=target.fingerprint([checkpoint.fingerprint()]),
    )


def _as_stored(checkpoint: Checkpoint, family: Family, config: Seq2SeqConfig) -> Seq2SeqConfig:
    """What is not in the configuration but in the file: whether an untied head is the words' table all the
    same (T5's configurations do not tell), and whether there is a bias on the logits (BART before it was
    fine-tuned has none).
    """
    decoder = config.decoder
    if decoder.head is Head.UNTIED and alike(checkpoint, family, "decoder.head.linear.weight", _WORDS):
        decoder = replace(decoder, head=Head.TIED)
    biased = config.logit_bias and provides(checkpoint, family, "logit_bias")
    return replace(config, decoder=decoder, logit_bias=biased)


def _tied(family: Family, config: Seq2SeqConfig) -> Tied:
    head = (family.head,) if family.head and config.decoder.head is Head.TIED else ()
    return Tied(copies=(*(family.copies if config.shared else ()), *head), words=_WORDS)

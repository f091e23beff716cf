"""From a path to a model that is ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.config import DecoderConfig, EncoderConfig, Head, Seq2SeqConfig
from models.decoder import Decoder
from models.errors import UnsupportedModel
from models.families import gguf
from models.families.naming import Family
from models.families.registry import read
from models.filling import Tied, fill
from models.layouts import HeadShape
from models.loading_encoder import LoadedEncoder, load_encoder
from models.loading_seq2seq import LoadedSeq2Seq, load_seq2seq
from models.native.library import Library
from models.native.quantise import Quantise
from models.target import Target
from models.weights.checkpoint import Checkpoint, Format, open_checkpoint

__all__ = ["LoadedDecoder", "LoadedEncoder", "LoadedSeq2Seq", "load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDecoder:
    """A decoder ready to run. `parameters` counts elements, a tied head once."""

    config: DecoderConfig
    decoder: Decoder
    fingerprint: str
    parameters: int


def load(
    path: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    adapter: Path | None = None,
    packed: bool = True,
    kernels: Library | None = None,
    quantise: Quantise | None = None,
    memory: int | None = None,
) -> LoadedDecoder | LoadedEncoder | LoadedSeq2Seq:
    """Load a model folder or `.gguf` file, with a masked-LM adapter's folder where an encoder has one.

    `packed=False` leaves every weight a plain parameter, as training needs it. `kernels`: what to run on
    where the device is a CPU; `quantise`: what they are to keep of the weights. `memory`: bytes that loading
    may take, where there is a limit.

    Raises UnsupportedModel naming what is not implemented, ModelTooLarge before anything is allocated,
    WeightsMismatch listing every tensor that is missing or left over, ChecksumMismatch where the adapter
    belongs to other weights, and what `open_checkpoint` raises.
    """
    checkpoint = open_checkpoint(path)
    raw = _with_facts(checkpoint) if checkpoint.format is Format.GGUF else checkpoint.config
    family, config = read(raw)
    target = Target(
        device=device, dtype=dtype, packed=packed, kernels=kernels, quantise=quantise, memory=memory
    )
    if isinstance(config, EncoderConfig):
        return load_encoder(checkpoint, family, config, target, adapter)
    if adapter is not None:
        raise UnsupportedModel(f"{path} is no encoder; masked-LM adapters are for encoders")
    if isinstance(config, Seq2SeqConfig):
        return load_seq2seq(checkpoint, family, config, target)
    return _load_decoder(checkpoint, family, config, target)


def _load_decoder(
    checkpoint: Checkpoint, family: Family, config: DecoderConfig, target: Target
) -> LoadedDecoder:
    with torch.device("meta"):
        decoder = Decoder(config)
    keep = target.kernels_used is not None  # they pack quantised blocks without a detour through tensors
    target.materialize(decoder, checkpoint, keep=keep)
    tied = Tied(copies=(family.head,)) if family.head and config.head is Head.TIED else None
    kept = fill(decoder, checkpoint, family, HeadShape.of(config), tied=tied, keep=keep)
    return LoadedDecoder(
        config=config,
        parameters=target.finish(decoder, kept),
        decoder=decoder,
        fingerprint=target.fingerprint([checkpoint.fingerprint()]),
    )


def _with_facts(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """A GGUF file's metadata, and what it states through its tensors only."""
    names = frozenset(checkpoint.names())
    facts: dict[str, Any] = {gguf.HAS_HEAD: gguf.HEAD in names}
    stated = f"{checkpoint.config.get('general.architecture')}.vocab_size"
    if stated not in checkpoint.config and gguf.WORDS in names:
        facts[stated] = len(checkpoint.tensor(gguf.WORDS))
    if gguf.FACTORS in names:
        facts[gguf.ROPE_FACTORS] = checkpoint.tensor(gguf.FACTORS).tolist()
    return checkpoint.config | facts

"""From a path to a model that is ready to run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.adapter import WEIGHTS, masked_lm, read_adapter
from models.config import DecoderConfig, EncoderConfig, Head, Seq2SeqConfig
from models.decoder import Decoder
from models.encoder import Encoder
from models.errors import BrokenCheckpoint, ChecksumMismatch, UnsupportedModel
from models.families import gguf
from models.families.naming import Family
from models.families.registry import read
from models.filling import Tied, fill, materialize, provides
from models.heads import MaskedLM, MaskedLMHead, Pooling
from models.layouts import HeadShape
from models.loading_seq2seq import LoadedSeq2Seq, load_seq2seq
from models.sentence import read_sentence_settings
from models.target import Target
from models.weights.checkpoint import Checkpoint, Format, open_checkpoint
from models.weights.fingerprint import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDecoder:
    """A decoder ready to run. `parameters` counts elements, a tied head once."""

    config: DecoderConfig
    decoder: Decoder
    fingerprint: str
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder ready to run. `masked_lm` is None where neither checkpoint nor adapter has a head for it.

    With an adapter, `masked_lm` has linear layers of its own and shares the embeddings with `encoder`.
    """

    config: EncoderConfig
    encoder: Encoder
    masked_lm: MaskedLM | None
    pooling: Pooling
    normalize: bool  # whether the model's author has embeddings scaled to unit length
    fingerprint: str
    parameters: int


def load(
    path: Path, *, device: torch.device, dtype: torch.dtype, adapter: Path | None = None, packed: bool = True
) -> LoadedDecoder | LoadedEncoder | LoadedSeq2Seq:
    """Load a model folder or `.gguf` file, with a masked-LM adapter's folder where an encoder has one.

    `packed=False` leaves every weight a plain parameter, as training needs it. Raises UnsupportedModel naming
    what is not implemented, WeightsMismatch listing every tensor that is missing or left over,
    ChecksumMismatch where the adapter belongs to other weights, and what `open_checkpoint` raises.
    """
    checkpoint = open_checkpoint(path)
    raw = _with_facts(checkpoint) if checkpoint.format is Format.GGUF else checkpoint.config
    family, config = read(raw)
    target = Target(device=device, dtype=dtype, packed=packed)
    if isinstance(config, EncoderConfig):
        return _load_encoder(checkpoint, family, config, target, adapter)
    if adapter is not None:
        raise UnsupportedModel(f"{path} is a decoder; masked-LM adapters are for encoders")
    if isinstance(config, Seq2SeqConfig):
        return load_seq2seq(checkpoint, family, config, target)
    return _load_decoder(checkpoint, family, config, target)


def _load_decoder(
    checkpoint: Checkpoint, family: Family, config: DecoderConfig, target: Target
) -> LoadedDecoder:
    with torch.device("meta"):
        decoder = Decoder(config)
    materialize(decoder, target.device, target.dtype)
    tied = Tied(copies=(family.head,)) if family.head and config.head is Head.TIED else None
    fill(decoder, checkpoint, family, HeadShape.of(config), tied=tied)
    return LoadedDecoder(
        config=config,
        parameters=target.finish(decoder),
        decoder=decoder,
        fingerprint=target.fingerprint([checkpoint.fingerprint()]),
    )


def _load_encoder(
    checkpoint: Checkpoint, family: Family, config: EncoderConfig, target: Target, adapter: Path | None
) -> LoadedEncoder:
    with torch.device("meta"):
        encoder = Encoder(config)
        head = MaskedLMHead(config, encoder.embeddings.words)
    whole = MaskedLM(encoder, head) if provides(checkpoint, family, "head.bias") else None
    materialize(whole or encoder, target.device, target.dtype)
    fill(whole or encoder, checkpoint, family, HeadShape.of(config))
    fingerprints = [checkpoint.fingerprint()]
    if adapter is not None:
        whole = _adapt(adapter, checkpoint.path, config, encoder)
        fingerprints.append(digest([adapter / WEIGHTS]))
    settings = read_sentence_settings(checkpoint.path)
    return LoadedEncoder(
        config=config,
        parameters=target.finish(encoder if whole is None else nn.ModuleList([encoder, whole])),
        encoder=encoder,
        masked_lm=whole,
        pooling=settings.pooling,
        normalize=settings.normalize,
        fingerprint=target.fingerprint(fingerprints),
    )


def _adapt(folder: Path, base: Path, config: EncoderConfig, encoder: Encoder) -> MaskedLM:
    """Raises ChecksumMismatch where the adapter was trained on other weights: it would load all the same."""
    adapter = read_adapter(folder)
    weights = base / "model.safetensors"
    if not weights.is_file():
        raise BrokenCheckpoint(base, f"the adapter in {folder} needs its {weights.name}, in one piece")
    actual = hashlib.sha256(weights.read_bytes()).hexdigest()
    if actual != adapter.base_sha256:
        raise ChecksumMismatch(str(weights), expected=adapter.base_sha256, actual=actual)
    return masked_lm(adapter, config, encoder)


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

"""Brings loaded models onto the device: memory for each, a lane in the scheduler, a runner, and its card."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from models.config import DecoderConfig
from models.invariance import scores_of
from models.kv_cache import KVCache
from models.loading import LoadedDecoder, LoadedEncoder, LoadedSeq2Seq, load
from models.native.attach import runs_apart
from models.native.library import Library
from models.native.quantise import Quantise
from models.numerics import numerics
from models.weights.fingerprint import combine, digest_code
from server.engine.messages import ModelSetup, Setup
from server.execution.device import (
    NotEnoughMemory,
    choose_device,
    choose_dtype,
    free_memory,
    is_batch_invariant,
)
from server.execution.encoding import EncoderRunner
from server.execution.generation import DecoderRunner
from server.execution.kernels import open_kernels
from server.execution.runner import ModelRunner
from server.execution.threads import usable_cores
from server.request import ModelCard, Task
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane

BLOCK_SIZE = 16  # tokens
MAX_PASSAGES = 64  # in one encoder batch
KV_SHARE = 0.25  # of free memory, unless told
MIN_TOKENS = 64  # a KV cache for fewer serves nobody
LIBRARIES = ("numpy", "tokenizers", "llguidance")  # that decide over a text, besides torch
# What of our own does, besides the models.
DECIDING = ("execution", "text", "request.py", "engine/sources.py", "scheduling/beams.py")
STEP_TOKENS = {"cpu": 256, "cuda": 2048}  # by default; a quarter of a second on a small CPU

logger = logging.getLogger(__name__)

Loaded = LoadedDecoder | LoadedEncoder | LoadedSeq2Seq


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One loaded model, ready to be scheduled and run."""

    card: ModelCard
    lane: GenerationLane | EncodingLane
    runner: ModelRunner
    weights: LoadedDecoder | LoadedEncoder | None = None  # of what takes adapters


def load_all(setup: Setup) -> list[Member]:
    """Raises ModelError or DeviceError."""
    device = choose_device(setup.device)
    dtype = choose_dtype(setup.dtype, device)
    quantise = None if setup.quantize == "none" else Quantise(setup.quantize)
    kernels = _open_kernels(setup, device, dtype, quantise)
    loaded = [
        (
            model,
            load(
                Path(model.path),
                device=device,
                dtype=dtype,
                adapter=_path(model.adapter),
                kernels=kernels,
                quantise=quantise,
            ),
        )
        for model in setup.models
    ]
    with_caches = sum(not isinstance(weights, LoadedEncoder) for _, weights in loaded)
    memory = int(free_memory(device) * KV_SHARE) if setup.kv_memory is None else setup.kv_memory
    share = memory // max(with_caches, 1)
    step_tokens = setup.max_batch_tokens or STEP_TOKENS[device.type]
    host = Host(
        device,
        dtype,
        kv_memory=share,
        step_tokens=step_tokens,
        max_sequences=setup.max_sequences,
        speculation=setup.speculation,
        computing=_computing(device, dtype),
        kernels=kernels,
        quantise=quantise,
    )
    return [host.admit(model, weights) for model, weights in loaded]


def _open_kernels(
    setup: Setup, device: torch.device, dtype: torch.dtype, quantise: Quantise | None
) -> Library | None:
    """Threads are shared out here: what PyTorch does beside kernels is little, and its threads would be in
    the way of theirs."""
    threads = setup.threads or usable_cores()
    kernels = open_kernels(setup.kernels, Path(setup.cache), threads, device, dtype, quantise)
    torch.set_num_threads(threads if kernels is None else 1)
    return kernels


def _computing(device: torch.device, dtype: torch.dtype) -> str:
    """What decides over a text besides the weights: how this machine rounds, libraries, and our own code."""
    here = Path(__file__).parent
    code = digest_code(here.parent / "models", *(here / source for source in DECIDING))
    return combine(numerics(device, dtype), code, *map(_installed, LIBRARIES))


def _installed(library: str) -> str:
    """Its version; nothing where it is not there, as `llguidance` may be."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Host:
    """The device, and what each model may have of it; `kv_memory` in bytes, for each that has a cache."""

    device: torch.device
    dtype: torch.dtype
    kv_memory: int
    step_tokens: int
    max_sequences: int
    speculation: bool
    computing: str  # a fingerprint of everything but the weights
    kernels: Library | None  # None: PyTorch computes
    quantise: Quantise | None = None

    def admit(self, model: ModelSetup, weights: Loaded) -> Member:
        """Raises NotEnoughMemory."""
        match weights:
            case LoadedDecoder():
                return self._admit_decoder(model, weights)
            case LoadedSeq2Seq():
                return self._admit_seq2seq(model, weights)
            case LoadedEncoder():
                return self._admit_encoder(model, weights)

    def _admit_decoder(self, model: ModelSetup, weights: LoadedDecoder) -> Member:
        config = weights.config
        kernels = weights.decoder.program is not None
        cache = self._cache(model, config, tokens=config.context_length, for_kernels=kernels)
        longest = min(config.context_length, cache.num_blocks * BLOCK_SIZE)
        return Member(
            card=self._card(model, weights, {Task.GENERATE}, max_tokens=longest),
            lane=self._lane(model, cache),
            runner=DecoderRunner(weights.decoder, cache, self.device, kernels=self.kernels),
            weights=weights,
        )

    def _admit_seq2seq(self, model: ModelSetup, weights: LoadedSeq2Seq) -> Member:
        """Source and answer share the cache: where it is small, each has half of it."""
        encoder, decoder = weights.config.encoder, weights.config.decoder
        cache = self._cache(
            model,
            decoder,
            tokens=encoder.context_length + decoder.context_length,
            for_kernels=weights.model.decoder.program is not None,
        )
        half = cache.num_blocks // 2 * BLOCK_SIZE
        tasks = {Task.GENERATE, Task.SUMMARIZE, Task.TRANSLATE}
        card = self._card(model, weights, tasks, max_tokens=min(decoder.context_length, half))
        source_tokens = min(encoder.context_length, half)
        return Member(
            card=replace(card, source_tokens=source_tokens, start_token=weights.config.start),
            lane=self._lane(model, cache, sources=True),
            runner=DecoderRunner(weights.model, cache, self.device, kernels=self.kernels),
        )

    def _admit_encoder(self, model: ModelSetup, weights: LoadedEncoder) -> Member:
        tasks = {Task.EMBED} if weights.masked_lm is None else {Task.EMBED, Task.FILL_MASK}
        card = self._card(model, weights, tasks, max_tokens=weights.config.context_length)
        return Member(
            card=replace(card, embedding_size=weights.sentence.size, pooling=weights.sentence.pooling),
            lane=EncodingLane(model.name, max_batch_tokens=2 * self.step_tokens, max_passages=MAX_PASSAGES),
            runner=EncoderRunner(weights.encoder, weights.masked_lm, weights.sentence, self.device),
            weights=weights,
        )

    def _lane(self, model: ModelSetup, cache: KVCache, *, sources: bool = False) -> GenerationLane:
        return GenerationLane(
            model.name,
            BlockPool(cache.num_blocks, BLOCK_SIZE),
            max_batch_tokens=self.step_tokens,
            max_sequences=self.max_sequences,
            speculation=self.speculation,
            sources=sources,
        )

    def _cache(self, model: ModelSetup, config: DecoderConfig, *, tokens: int, for_kernels: bool) -> KVCache:
        """As large as fits, but no larger than all sequences could fill with `tokens` each.

        Raises NotEnoughMemory.
        """
        fitting = self.kv_memory // KVCache.bytes_per_block(
            config, BLOCK_SIZE, self.dtype, for_kernels=for_kernels
        )
        blocks = min(fitting, self.max_sequences * -(-tokens // BLOCK_SIZE))
        if blocks * BLOCK_SIZE < MIN_TOKENS:
            raise NotEnoughMemory(
                f"--kv-memory: {self.kv_memory} bytes hold {blocks * BLOCK_SIZE} tokens of {model.name}"
            )
        return KVCache(
            config,
            num_blocks=blocks,
            block_size=BLOCK_SIZE,
            device=self.device,
            dtype=self.dtype,
            for_kernels=for_kernels,
        )

    def _card(self, model: ModelSetup, weights: Loaded, tasks: set[Task], *, max_tokens: int) -> ModelCard:
        return ModelCard(
            name=model.name,
            source=model.source,
            architecture=weights.config.architecture,
            tasks=frozenset(tasks),
            max_tokens=max_tokens,
            vocab_size=weights.config.vocab_size,
            parameters=weights.parameters,
            dtype=str(self.dtype).removeprefix("torch."),
            device=self.device.type,
            kernels=self._kernels_of(weights),
            quantization=None if self.quantise is None else self.quantise.value,
            fingerprint=combine(weights.fingerprint, self.computing),
            batch_invariant=self._is_batch_invariant(weights),
        )

    def _kernels_of(self, weights: Loaded) -> str:
        """What computes, by name; said in the log where kernels do not do all of it."""
        if self.kernels is None:
            return "torch"
        if not self._runs_apart(weights):
            return self.kernels.name
        attention = f"attention of {weights.config.architecture} in PyTorch"
        logger.warning("our kernels have no operation for it: %s, slower than theirs", attention)
        return f"{self.kernels.name}; {attention}"

    def _is_batch_invariant(self, weights: Loaded) -> bool:
        scores = scores_of(weights.config)
        ours = is_batch_invariant(self.device, self.dtype, scores, self.kernels, self.quantise)
        if not self._runs_apart(weights):
            return ours
        return ours and is_batch_invariant(self.device, torch.float32, scores)

    def _runs_apart(self, weights: Loaded) -> bool:
        """Whether PyTorch computes its attention, and kernels the rest."""
        return self.kernels is not None and isinstance(weights, LoadedEncoder) and runs_apart(weights.encoder)


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None

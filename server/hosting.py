"""Brings loaded models onto the device: memory for each, a lane in the scheduler, a runner, and its card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.config import DecoderConfig
from models.decoder import Decoder
from models.kv_cache import KVCache
from models.loading import LoadedDecoder, LoadedEncoder, LoadedSeq2Seq
from models.numerics import numerics
from models.seq2seq import Seq2Seq
from models.weights.fingerprint import combine, digest_code
from server.engine.messages import ModelSetup, Setup
from server.execution.computing import Computing, Loaded, Threaded
from server.execution.device import NotEnoughMemory, allocating, free_memory
from server.execution.encoding import EncoderRunner
from server.execution.generation import DecoderRunner
from server.execution.runner import ModelRunner
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One loaded model, ready to be scheduled and run."""

    card: ModelCard
    lane: GenerationLane | EncodingLane
    runner: ModelRunner
    weights: LoadedDecoder | LoadedEncoder | None = None  # of what takes adapters


def load_all(setup: Setup) -> list[Member]:
    """Raises ModelError or DeviceError."""
    computing = Computing.of(
        device=setup.device,
        dtype=setup.dtype,
        quantize=setup.quantize,
        kernels=setup.kernels,
        threads=setup.threads,
        cache=Path(setup.cache),
    )
    loaded = [(model, computing.load(Path(model.path), _path(model.adapter))) for model in setup.models]
    computing.check_kept({model.name: weights for model, weights in loaded})
    with_caches = sum(not isinstance(weights, LoadedEncoder) for _, weights in loaded)
    memory = int(free_memory(computing.device) * KV_SHARE) if setup.kv_memory is None else setup.kv_memory
    host = Host(
        computing,
        kv_memory=memory // max(with_caches, 1),
        step_tokens=setup.max_batch_tokens or STEP_TOKENS[computing.device.type],
        max_sequences=setup.max_sequences,
        speculation=setup.speculation,
        deciding=_deciding(computing),
    )
    return [host.admit(model, weights) for model, weights in loaded]


def _deciding(computing: Computing) -> str:
    """What decides over a text besides the weights: how this machine rounds, libraries, and our own code."""
    here = Path(__file__).parent
    code = digest_code(here.parent / "models", *(here / source for source in DECIDING))
    return combine(numerics(computing.device, computing.dtype), code, *map(_installed, LIBRARIES))


def _installed(library: str) -> str:
    """Its version; nothing where it is not there, as `llguidance` may be."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Host:
    """The device, and what each model may have of it; `kv_memory` in bytes, for each that has a cache."""

    computing: Computing
    kv_memory: int
    step_tokens: int
    max_sequences: int
    speculation: bool
    deciding: str  # a fingerprint of everything but the weights

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
            runner=self._decoding(weights.decoder, cache),
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
            runner=self._decoding(weights.model, cache),
        )

    def _admit_encoder(self, model: ModelSetup, weights: LoadedEncoder) -> Member:
        tasks = {Task.EMBED} if weights.masked_lm is None else {Task.EMBED, Task.FILL_MASK}
        card = self._card(model, weights, tasks, max_tokens=weights.config.context_length)
        return Member(
            card=replace(card, embedding_size=weights.sentence.size, pooling=weights.sentence.pooling),
            lane=EncodingLane(model.name, max_batch_tokens=2 * self.step_tokens, max_passages=MAX_PASSAGES),
            runner=self._encoding(weights),
            weights=weights,
        )

    def _decoding(self, decoder: Decoder | Seq2Seq, cache: KVCache) -> DecoderRunner:
        return DecoderRunner(decoder, cache, self.computing.device, kernels=self.computing.kernels)

    def _encoding(self, weights: LoadedEncoder) -> ModelRunner:
        runner = EncoderRunner(weights.encoder, weights.masked_lm, weights.sentence, self.computing.device)
        apart = self.computing.runs_apart(weights)
        return Threaded(runner, self.computing, weights) if apart else runner

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
            config, BLOCK_SIZE, self.computing.dtype, for_kernels=for_kernels
        )
        blocks = min(fitting, self.max_sequences * -(-tokens // BLOCK_SIZE))
        if blocks * BLOCK_SIZE < MIN_TOKENS:
            raise NotEnoughMemory(
                f"--kv-memory: {self.kv_memory} bytes hold {blocks * BLOCK_SIZE} tokens of {model.name}"
            )
        with allocating(f"the KV cache of {model.name}; --kv-memory says how much it may have"):
            return KVCache(
                config,
                num_blocks=blocks,
                block_size=BLOCK_SIZE,
                device=self.computing.device,
                dtype=self.computing.dtype,
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
            dtype=self.computing.precision,
            device=self.computing.device.type,
            kernels=self.computing.kernels_of(weights),
            quantization=self.computing.quantisation(weights),
            fingerprint=combine(weights.fingerprint, self.deciding),
            batch_invariant=self.computing.is_batch_invariant(weights),
        )


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None

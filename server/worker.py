"""The engine process: loads the models, then runs the loop. Joins what only it needs to know.

Started as `python -m server.worker FD`, where FD is its end of the socketpair; the first message says
what to load.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from models.errors import ModelError
from models.kv_cache import KVCache
from models.loading import LoadedDecoder, LoadedEncoder, load
from models.numerics import numerics
from models.weights.fingerprint import combine, digest_code
from server.engine import messages
from server.engine.loop import Loop
from server.engine.messages import LoadFailed, ModelSetup, Ready, Setup, frame
from server.execution.adapters import Base, LoadedAdapters
from server.execution.constraints import Constraints
from server.execution.device import (
    DeviceError,
    NotEnoughMemory,
    choose_device,
    choose_dtype,
    free_memory,
    is_batch_invariant,
)
from server.execution.encoding import EncoderRunner
from server.execution.generation import DecoderRunner
from server.execution.grammars.compiler import Compiler
from server.execution.runner import ModelRunner, Runner
from server.request import ModelCard, Task
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.scheduler import Scheduler
from server.text.tokenizer import load_tokenizer

BLOCK_SIZE = 16  # tokens
MAX_PASSAGES = 64  # in one encoder batch
KV_SHARE = 0.25  # of free memory, unless told
MIN_TOKENS = 64  # a KV cache for fewer serves nobody
LIBRARIES = ("numpy", "tokenizers", "llguidance")  # that decide over a text, besides torch
STEP_TOKENS = {"cpu": 256, "cuda": 2048}  # by default; a quarter of a second on a small CPU


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    link = socket.socket(fileno=int(sys.argv[1]))
    setup = _receive_setup(link)
    try:
        members = load_all(setup)
        adapters = _adapters(members)
        loras = _load_loras(setup, adapters)
    except (ModelError, DeviceError) as error:
        with suppress(ConnectionError):  # the other process may have given up before
            link.sendall(frame(LoadFailed(str(error))))
        return 1
    link.sendall(frame(Ready([member.card for member in members], loras)))
    scheduler = Scheduler({one.card.name: one.lane for one in members}, itl_target_s=setup.itl_target_s)
    runner = Runner({one.card.name: one.runner for one in members})
    Loop(link, scheduler, runner, _constraints(setup, members), adapters).run()
    return 0


def _adapters(members: Sequence[Member]) -> LoadedAdapters:
    bases = {one.card.name: Base(one.weights, one.card.fingerprint) for one in members if one.weights}
    return LoadedAdapters(bases)


def _load_loras(setup: Setup, adapters: LoadedAdapters) -> dict[str, dict[str, str]]:
    """The fingerprints of each model with its adapters, by their names. Raises ModelError."""
    return {
        model.name: {one.name: adapters.load(model.name, one.name, one.path) for one in model.loras}
        for model in setup.models
    }


def _constraints(setup: Setup, members: Sequence[Member]) -> Constraints:
    """A tokenizer is read when the first grammar comes: most servers never see one."""
    paths = {model.name: Path(model.path) for model in setup.models}
    decoders = {one.card.name: one for one in members if isinstance(one.runner, DecoderRunner)}
    return Constraints(
        {name: one.runner for name, one in decoders.items() if isinstance(one.runner, DecoderRunner)},
        {
            name: Compiler(partial(load_tokenizer, paths[name]), one.card.vocab_size)
            for name, one in decoders.items()
        },
    )


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
    loaded = [
        (model, load(Path(model.path), device=device, dtype=dtype, adapter=_path(model.adapter)))
        for model in setup.models
    ]
    decoders = sum(isinstance(weights, LoadedDecoder) for _, weights in loaded)
    memory = int(free_memory(device) * KV_SHARE) if setup.kv_memory is None else setup.kv_memory
    share = memory // max(decoders, 1)
    step_tokens = setup.max_batch_tokens or STEP_TOKENS[device.type]
    host = Host(
        device,
        dtype,
        kv_memory=share,
        step_tokens=step_tokens,
        max_sequences=setup.max_sequences,
        speculation=setup.speculation,
        computing=_computing(device, dtype),
    )
    return [host.admit(model, weights) for model, weights in loaded]


def _computing(device: torch.device, dtype: torch.dtype) -> str:
    """What decides over a text besides the weights: how this machine rounds, libraries, and our own code."""
    here = Path(__file__).parent
    code = digest_code(here.parent / "models", here / "execution", here / "text", here / "request.py")
    return combine(numerics(device, dtype), code, *map(_installed, LIBRARIES))


def _installed(library: str) -> str:
    """Its version; nothing where it is not there, as `llguidance` may be."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Host:
    """The device, and what each model may have of it; `kv_memory` in bytes, for each decoder."""

    device: torch.device
    dtype: torch.dtype
    kv_memory: int
    step_tokens: int
    max_sequences: int
    speculation: bool
    computing: str  # a fingerprint of everything but the weights

    def admit(self, model: ModelSetup, weights: LoadedDecoder | LoadedEncoder) -> Member:
        """Raises NotEnoughMemory."""
        if isinstance(weights, LoadedDecoder):
            return self._admit_decoder(model, weights)
        return self._admit_encoder(model, weights)

    def _admit_decoder(self, model: ModelSetup, weights: LoadedDecoder) -> Member:
        blocks = self._count_blocks(model, weights)
        cache = KVCache(
            weights.config, num_blocks=blocks, block_size=BLOCK_SIZE, device=self.device, dtype=self.dtype
        )
        longest = min(weights.config.context_length, blocks * BLOCK_SIZE)
        return Member(
            card=self._card(model, weights, {Task.GENERATE}, max_tokens=longest),
            lane=GenerationLane(
                model.name,
                BlockPool(blocks, BLOCK_SIZE),
                max_batch_tokens=self.step_tokens,
                max_sequences=self.max_sequences,
                speculation=self.speculation,
            ),
            runner=DecoderRunner(weights.decoder, cache, self.device),
            weights=weights,
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

    def _count_blocks(self, model: ModelSetup, weights: LoadedDecoder) -> int:
        """As many as fit, but no more than the sequences could ever fill."""
        fitting = self.kv_memory // KVCache.bytes_per_block(weights.config, BLOCK_SIZE, self.dtype)
        wanted = self.max_sequences * -(-weights.config.context_length // BLOCK_SIZE)
        blocks = min(fitting, wanted)
        if blocks * BLOCK_SIZE < MIN_TOKENS:
            raise NotEnoughMemory(
                f"--kv-memory: {self.kv_memory} bytes hold {blocks * BLOCK_SIZE} tokens of {model.name}"
            )
        return blocks

    def _card(
        self, model: ModelSetup, weights: LoadedDecoder | LoadedEncoder, tasks: set[Task], *, max_tokens: int
    ) -> ModelCard:
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
            fingerprint=combine(weights.fingerprint, self.computing),
            batch_invariant=is_batch_invariant(self.device, self.dtype),
        )


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


def _receive_setup(link: socket.socket) -> Setup:
    """Exactly one frame: what follows it belongs to the loop."""
    (length,) = messages.LENGTH.unpack(link.recv(messages.LENGTH.size, socket.MSG_WAITALL))
    setup = messages.decode_command(link.recv(length, socket.MSG_WAITALL))
    assert isinstance(setup, Setup)
    return setup


if __name__ == "__main__":
    sys.exit(main())

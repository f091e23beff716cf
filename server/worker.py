"""The engine process: loads the models, then runs the loop. Joins what only it needs to know.

Started as `python -m server.worker FD`, where FD is its end of the socketpair; the first message says
what to load.
"""

from __future__ import annotations

import logging
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from models.errors import ModelError
from models.kv_cache import KVCache
from models.loading import LoadedDecoder, LoadedEncoder, load
from server.engine import messages
from server.engine.loop import Loop
from server.engine.messages import LoadFailed, ModelSetup, Ready, Setup, frame
from server.execution.device import DeviceError, NotEnoughMemory, choose_device, choose_dtype, free_memory
from server.execution.runner import DecoderRunner, EncoderRunner, ModelRunner, Runner
from server.request import ModelCard, Task
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.scheduler import Scheduler

BLOCK_SIZE = 16  # tokens
MAX_PASSAGES = 64  # in one encoder batch
KV_SHARE = 0.25  # of free memory, unless told
MIN_TOKENS = 64  # a KV cache for fewer serves nobody


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    link = socket.socket(fileno=int(sys.argv[1]))
    setup = _receive_setup(link)
    try:
        members = _load(setup)
    except (ModelError, DeviceError) as error:
        link.sendall(frame(LoadFailed(str(error))))
        return 1
    link.sendall(frame(Ready([member.card for member in members])))
    scheduler = Scheduler({member.card.name: member.lane for member in members})
    Loop(link, scheduler, Runner({member.card.name: member.runner for member in members})).run()
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One loaded model, ready to be scheduled and run."""

    card: ModelCard
    lane: GenerationLane | EncodingLane
    runner: ModelRunner


def _load(setup: Setup) -> list[Member]:
    """Raises ModelError or DeviceError."""
    device = choose_device(setup.device)
    dtype = choose_dtype(setup.dtype, device)
    loaded = [
        (model, load(Path(model.path), device=device, dtype=dtype, adapter=model.adapter and Path(model.adapter)))
        for model in setup.models
    ]
    decoders = sum(isinstance(weights, LoadedDecoder) for _, weights in loaded)
    memory = setup.kv_memory or int(free_memory(device) * KV_SHARE)
    budget = setup.max_batch_tokens or (2048 if device.type == "cuda" else 256)
    return [
        _decoder(model, weights, memory // decoders, budget, setup.max_sequences)
        if isinstance(weights, LoadedDecoder)
        else _encoder(model, weights, budget)
        for model, weights in loaded
    ]


def _decoder(model: ModelSetup, weights: LoadedDecoder, memory: int, budget: int, sequences: int) -> Member:
    """Give it as many KV blocks as fit into `memory` bytes, but no more than its sequences can fill."""
    config, device, dtype = weights.config, weights.device, weights.dtype
    fitting = memory // KVCache.bytes_per_block(config, BLOCK_SIZE, dtype)
    wanted = sequences * -(-config.context_length // BLOCK_SIZE)
    blocks = min(fitting, wanted)
    if blocks * BLOCK_SIZE < MIN_TOKENS:
        raise NotEnoughMemory(f"--kv-memory: {memory} bytes hold {blocks * BLOCK_SIZE} tokens of {model.name}")
    cache = KVCache(config, blocks, BLOCK_SIZE, device=device, dtype=dtype)
    return Member(
        card=_card(model, weights, {Task.GENERATE}, max_tokens=min(config.context_length, blocks * BLOCK_SIZE)),
        lane=GenerationLane(
            model.name, BlockPool(blocks, BLOCK_SIZE), max_batch_tokens=budget, max_sequences=sequences
        ),
        runner=DecoderRunner(weights.decoder, cache, device),
    )


def _encoder(model: ModelSetup, weights: LoadedEncoder, budget: int) -> Member:
    tasks = {Task.EMBED} if weights.masked_lm is None else {Task.EMBED, Task.FILL_MASK}
    return Member(
        card=_card(
            model,
            weights,
            tasks,
            max_tokens=weights.config.context_length,
            embedding_size=weights.config.hidden_size,
            pooling=weights.pooling.value,
        ),
        lane=EncodingLane(model.name, max_batch_tokens=2 * budget, max_passages=MAX_PASSAGES),
        runner=EncoderRunner(weights.encoder, weights.masked_lm, weights.pooling, weights.device),
    )


def _card(
    model: ModelSetup,
    weights: LoadedDecoder | LoadedEncoder,
    tasks: set[Task],
    *,
    max_tokens: int,
    embedding_size: int | None = None,
    pooling: str | None = None,
) -> ModelCard:
    return ModelCard(
        name=model.name,
        source=model.source,
        architecture=weights.config.architecture,
        tasks=frozenset(tasks),
        max_tokens=max_tokens,
        parameters=weights.parameters,
        dtype=str(weights.dtype).removeprefix("torch."),
        device=weights.device.type,
        fingerprint=weights.fingerprint,
        embedding_size=embedding_size,
        pooling=pooling,
    )


def _receive_setup(link: socket.socket) -> Setup:
    """Exactly one frame: what follows it belongs to the loop."""
    (length,) = messages.LENGTH.unpack(link.recv(messages.LENGTH.size, socket.MSG_WAITALL))
    setup = messages.decode_command(link.recv(length, socket.MSG_WAITALL))
    assert isinstance(setup, Setup)
    return setup


if __name__ == "__main__":
    sys.exit(main())

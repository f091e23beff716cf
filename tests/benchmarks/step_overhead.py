"""What a step costs beside the model: planning, tensors, sampling, recording, messages.

    python -m tests.benchmarks.step_overhead --streams 1 8 32 64 [--temperature 0.8 --top-p 0.95] [--profile]

The engine's own loop over a real socket, with a decoder whose logits are prepared. Prints milliseconds of
each part, the median over the steps in which all streams have a row. The model's own time is left out.
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import pstats
import random
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models.config import Activation, DecoderConfig, Head, Mlp, Norm
from models.decoder import Decoder
from models.kv_cache import KVCache
from models.native.library import Library
from models.positions import Learned
from server.engine import messages
from server.engine.loop import Loop
from server.engine.messages import Generate, Stepped, frame
from server.execution import generation, inputs
from server.execution.generation import DecoderRunner
from server.execution.kernels import open_kernels
from server.execution.runner import Runner
from server.execution.threads import usable_cores
from server.request import Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.scheduler import Scheduler
from server.settings import Settings
from tests.engine.test_loop import OneWord, Shelf

CPU = torch.device("cpu")
VOCABULARY = 49152  # as SmolLM2's
PREPARED_ROWS = 128
PROMPT_TOKENS = 100
BLOCK_SIZE = 16
MOST_STEPS = 400
CONFIG = DecoderConfig(
    architecture="prepared",
    vocab_size=VOCABULARY,
    hidden_size=8,
    layers=1,
    heads=1,
    kv_heads=1,
    head_dim=8,
    mlp_size=8,
    context_length=2048,
    norm=Norm.LAYER,
    norm_eps=1e-5,
    mlp=Mlp.PLAIN,
    activation=Activation.GELU_TANH,
    positions=Learned(rows=8),
    head=Head.TIED,
)


class Stopwatch:
    """Seconds of each part in each step; what one part spends in another is the other's."""

    def __init__(self, decoder: PreparedDecoder) -> None:
        self._decoder = decoder
        self._steps = list[tuple[int, dict[str, float]]]()  # rows, and seconds by part
        self._parts = defaultdict[str, float](float)
        self._open = ["rest"]
        self._since = time.perf_counter()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **options: Any) -> Any:
            self._turn()
            if part == "inbox":
                self._end_step()
            self._open.append(part)
            try:
                return call(*args, **options)
            finally:
                self._turn()
                self._open.pop()

        return measured

    def medians(self, rows: int) -> dict[str, float]:
        """Milliseconds of each part but the model, in steps of so many rows."""
        steps = [parts for count, parts in self._steps if count == rows]
        names = [name for name in steps[-1] if name != "model"]
        return {name: 1e3 * statistics.median(parts.get(name, 0.0) for parts in steps) for name in names}

    def _end_step(self) -> None:
        if "runner" in self._parts:  # else it waited
            self._steps.append((self._decoder.rows, dict(self._parts)))
        self._parts.clear()

    def _turn(self) -> None:
        now = time.perf_counter()
        self._parts[self._open[-1]] += now - self._since
        self._since = now


class PreparedDecoder(Decoder):
    """Computes nothing. Few logits are large, as a model's are: the odds fall with the square of the rank."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.rows = 0
        draw = torch.Generator().manual_seed(0)
        falling = -2.0 * torch.arange(1, VOCABULARY + 1).log()
        orders = [torch.randperm(VOCABULARY, generator=draw) for _ in range(PREPARED_ROWS)]
        self._prepared = torch.stack([falling[order] for order in orders])
        self._hidden = torch.zeros(4096, CONFIG.hidden_size)

    def forward(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        return self._hidden[: len(tokens)]

    def logits(self, hidden: Tensor, mixing: object = None) -> Tensor:
        self.rows = len(hidden)
        first = random.randrange(PREPARED_ROWS - self.rows)
        return self._prepared[first : first + self.rows]


def engine(link: socket.socket, decoder: Decoder, streams: int, kernels: Library | None) -> Loop:
    blocks = streams * (PROMPT_TOKENS + MOST_STEPS) // BLOCK_SIZE + streams
    cache = KVCache(CONFIG, num_blocks=blocks, block_size=BLOCK_SIZE, device=CPU, dtype=torch.float32)
    lane = GenerationLane(
        "m", BlockPool(blocks, BLOCK_SIZE), max_batch_tokens=256, max_sequences=streams, speculation=True
    )
    runner = Runner({"m": DecoderRunner(decoder, cache, CPU, kernels=kernels)})
    return Loop(link, Scheduler({"m": lane}), runner, OneWord(), Shelf())


def observe(loop: Loop, decoder: PreparedDecoder) -> Stopwatch:
    """Let the loop's parts be timed, each by itself."""
    watch = Stopwatch(decoder)
    parts: list[tuple[str, Any, str]] = [
        ("plan", loop._scheduler, "next_step"),
        ("inputs", inputs.DecoderInputs, "build"),
        ("model", decoder, "forward"),
        ("model", decoder, "logits"),
        ("sampling", generation, "sample"),
        ("runner", loop._runner, "run"),
        ("record", loop._scheduler, "apply"),
        ("report", loop, "_report"),
        ("send", loop, "_say"),
        ("inbox", loop._inbox, "take"),
    ]
    for part, owner, name in parts:
        setattr(owner, name, watch.timed(part, getattr(owner, name)))
    return watch


def converse(
    end: socket.socket, engines: socket.socket, streams: int, steps: int, sampling: Sampling
) -> None:
    """The other process: asks for as many streams, reads all that comes, and hangs up."""
    engines.close()
    for id_ in range(1, streams + 1):
        tokens = [random.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)]
        asked = Generate(id_, "m", tokens, steps, replace(sampling, seed=id_), [])
        end.sendall(frame(asked))
    running = streams
    while running:
        (length,) = messages.LENGTH.unpack(end.recv(messages.LENGTH.size, socket.MSG_WAITALL))
        event = messages.decode_event(end.recv(length, socket.MSG_WAITALL))
        if isinstance(event, Stepped):
            running -= sum(getattr(answer, "finish", None) is not None for answer in event.answers)
    end.close()


def measure(
    streams: int,
    steps: int,
    sampling: Sampling,
    kernels: Library | None,
    profile: cProfile.Profile | None = None,
) -> Stopwatch:
    ours, theirs = socket.socketpair()
    decoder = PreparedDecoder()
    loop = engine(ours, decoder, streams, kernels)
    fork = multiprocessing.get_context("fork")
    peer = fork.Process(target=converse, daemon=True, args=(theirs, ours, streams, steps, sampling))
    peer.start()
    theirs.close()
    if profile is None:
        with restored():
            watch = observe(loop, decoder)
            loop.run()
            return watch
    profile.runcall(loop.run)
    return Stopwatch(decoder)


@contextmanager
def restored() -> Iterator[None]:
    """What is timed outside of the loop goes back to what it was."""
    owners: list[tuple[Any, str]] = [(inputs.DecoderInputs, "build"), (generation, "sample")]
    kept = [(owner, name, vars(owner)[name]) for owner, name in owners]
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def show(measured: dict[int, Stopwatch]) -> None:
    """A line for each part, a column for each number of streams; milliseconds."""
    medians = {streams: watch.medians(streams) for streams, watch in measured.items()}
    parts = list(dict.fromkeys(part for column in medians.values() for part in column))
    print("ms a step".ljust(12), *(f"{streams:>8}" for streams in medians))
    for part in parts:
        print(part.ljust(12), *(f"{column.get(part, 0.0):8.3f}" for column in medians.values()))
    print("all".ljust(12), *(f"{sum(column.values()):8.3f}" for column in medians.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--kernels", default="auto", help="what looks at logits; torch: PyTorch")
    parser.add_argument("--profile", action="store_true", help="where Python spends it, by cProfile")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # as beside the native kernels, whose threads have the cores
    kernels = open_kernels(
        chosen.kernels, cache=Settings().cache, threads=usable_cores(), device=CPU, dtype=torch.float32
    )
    sampling = Sampling(temperature=chosen.temperature, top_p=chosen.top_p)
    if chosen.profile:
        profile = cProfile.Profile()
        measure(chosen.streams[0], chosen.steps, sampling, kernels, profile)
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return
    show({streams: measure(streams, chosen.steps, sampling, kernels) for streams in chosen.streams})


if __name__ == "__main__":
    main()

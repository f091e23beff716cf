"""Us, as `triptych serve` runs with the flags of each row."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.benchmarks.peers.contender import Contender, Job, Server
from tests.benchmarks.peers.processes import Word
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task
from tests.benchmarks.peers.workshop import Workshop

ROWS = {"bf16": "--dtype bfloat16 --quantize none", "keep": "--quantize keep", "int8": "--quantize int8"}
ENCODER_ROWS = {"fp32": "--dtype float32", "bf16": "--dtype bfloat16", "int8": "--quantize int8"}
FAIR = "--no-speculation"  # nobody else guesses ahead by default


def decoders(workshop: Workshop, rows: Mapping[str, str]) -> Iterator[Contender]:
    """`rows`: the flags of each, by its name."""
    for name, flags in rows.items():
        yield _decoder(workshop, name, (FAIR, *flags.split()))


def encoders(workshop: Workshop, subject: Subject, rows: Mapping[str, str]) -> Iterator[Contender]:
    for name, flags in rows.items():
        yield _encoder(workshop, subject, name, tuple(flags.split()))


def _decoder(workshop: Workshop, name: str, flags: tuple[str, ...]) -> Contender:
    def server() -> Server:
        gguf = workshop.gguf()
        words: list[Word] = [sys.executable, "-m", "server", "serve", "--model", gguf, *flags]
        words += ["--threads", str(workshop.threads), "--port"]
        return Server(words=words, model=gguf.stem, extras={"ignore_eos": True})

    def job() -> Job:
        return _job(Task(model=str(workshop.gguf()), output="", flags=flags))

    return Contender(
        subject=Subject.DECODER,
        name=f"ours-{name}",
        label=f"ours {name}",
        environment=None,
        distributions=("torch",),
        job=job,
        server=server,
    )


def _encoder(workshop: Workshop, subject: Subject, name: str, flags: tuple[str, ...]) -> Contender:
    def job() -> Job:
        folder = workshop.encoder_folder(subject)
        scores = subject is Subject.BERT_BASE
        return _job(Task(model=str(folder), output="", flags=flags, full_logits=scores))

    return Contender(
        subject=subject,
        name=f"ours-{name}",
        label=f"ours {name}",
        environment=None,
        distributions=("torch",),
        job=job,
    )


def _job(task: Task) -> Job:
    return Job(python=Path(sys.executable), module="ours", task=task)

"""transformers: `generate`, `transformers serve` with continuous batching, and encoders."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.peers.contender import Contender, Job, Server
from tests.benchmarks.peers.load import CONTEXT, STREAMS
from tests.benchmarks.peers.processes import Word
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task
from tests.benchmarks.peers.workshop import Workshop

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
BLOCK = 32  # tokens


def decoders(workshop: Workshop) -> Iterator[Contender]:
    yield _decoder(workshop)


def encoders(workshop: Workshop, subject: Subject) -> Iterator[Contender]:
    for precision in PRECISIONS:
        yield _encoder(workshop, subject, precision)


def _decoder(workshop: Workshop) -> Contender:
    def job() -> Job:
        task = Task(model=str(workshop.decoder_folder()), output="", precision="bfloat16")
        return Job(
            python=workshop.environment("transformers").python, module="transformers_decoder", task=task
        )

    def server() -> Server:
        folder, program = (
            workshop.decoder_folder(),
            workshop.environment("transformers").program("transformers"),
        )
        cache = ["--cb-block-size", str(BLOCK), "--cb-num-blocks", str(STREAMS * CONTEXT // BLOCK)]
        words: list[Word] = [
            program,
            "serve",
            "--continuous-batching",
            *cache,
            "--cb-max-batch-tokens",
            "2048",
        ]
        return Server(words=[*words, "--dtype", "bfloat16", "--device", "cpu", "--port"], model=str(folder))

    return Contender(
        subject=Subject.DECODER,
        name="transformers-bf16",
        label="transformers bf16",
        environment="transformers",
        distributions=("transformers", "torch"),
        job=job,
        server=server,
    )


def _encoder(workshop: Workshop, subject: Subject, precision: str) -> Contender:
    def job() -> Job:
        task = Task(
            model=str(workshop.encoder_folder(subject)),
            output="",
            precision=PRECISIONS[precision],
            full_logits=subject is Subject.BERT_BASE,
        )
        return Job(
            python=workshop.environment("transformers").python, module="transformers_encoder", task=task
        )

    return Contender(
        subject=subject,
        name=f"transformers-{precision}",
        label=f"transformers {precision}",
        environment="transformers",
        distributions=("transformers", "torch"),
        job=job,
    )

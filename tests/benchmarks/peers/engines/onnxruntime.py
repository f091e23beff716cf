"""onnxruntime: encoders, as they are and with weights quantised to int8."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.peers.contender import Contender, Job
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task
from tests.benchmarks.peers.workshop import Workshop


def encoders(workshop: Workshop, subject: Subject) -> Iterator[Contender]:
    for precision in ("fp32", "int8"):
        yield _encoder(workshop, subject, precision)


def _encoder(workshop: Workshop, subject: Subject, precision: str) -> Contender:
    def job() -> Job:
        python = workshop.environment("onnxruntime").python
        task = Task(model=str(workshop.onnx(subject, int8=precision == "int8")), output="")
        return Job(python=python, module="onnxruntime_encoder", task=task)

    return Contender(
        subject=subject,
        name=f"onnxruntime-{precision}",
        label=f"onnxruntime {precision}",
        environment="onnxruntime",
        distributions=("onnxruntime",),
        job=job,
    )

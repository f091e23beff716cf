"""OpenVINO: decoders by its GenAI pipeline, which reads GGUF and has no server; encoders from ONNX."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.peers.contender import Contender, Job
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task
from tests.benchmarks.peers.workshop import Workshop

WEIGHTS = ("Q8_0", "F16")
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # what to compute in, as it calls it


def decoders(workshop: Workshop) -> Iterator[Contender]:
    for weights in WEIGHTS:
        yield _decoder(workshop, weights)


def encoders(workshop: Workshop, subject: Subject) -> Iterator[Contender]:
    for precision in PRECISIONS:
        yield _encoder(workshop, subject, precision)


def _decoder(workshop: Workshop, weights: str) -> Contender:
    def job() -> Job:
        python = workshop.environment("openvino").python
        task = Task(model=str(workshop.gguf(weights)), output="", precision="bf16")
        return Job(python=python, module="openvino_decoder", task=task)

    return Contender(
        subject=Subject.DECODER,
        name=f"openvino-{weights.lower()}",
        label=f"openvino-genai {weights}, computing in bf16",
        environment="openvino",
        distributions=("openvino-genai",),
        job=job,
    )


def _encoder(workshop: Workshop, subject: Subject, precision: str) -> Contender:
    def job() -> Job:
        python = workshop.environment("openvino").python
        task = Task(model=str(workshop.onnx(subject)), output="", precision=PRECISIONS[precision])
        return Job(python=python, module="openvino_encoder", task=task)

    return Contender(
        subject=subject,
        name=f"openvino-{precision}",
        label=f"OpenVINO {precision}",
        environment="openvino",
        distributions=("openvino",),
        job=job,
    )

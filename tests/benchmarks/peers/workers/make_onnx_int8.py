"""Quantises the weights of an ONNX file to int8, per channel; activations are at run time."""

from __future__ import annotations

from onnxruntime.quantization import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    QuantType,
    quantize_dynamic,
)

from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    quantize_dynamic(task.model, task.output, per_channel=True, weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main(Task.read())

"""OpenVINO: an encoder from ONNX, compiled for any shape, answering as soon as it can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino  # type: ignore[import-not-found, unused-ignore]

from tests.benchmarks.peers.workers.measuring import Prompts, measure_encoder
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    hints = {
        "INFERENCE_PRECISION_HINT": task.precision,
        "INFERENCE_NUM_THREADS": task.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(task.model, "CPU", hints)
    request = compiled.create_infer_request()

    def prepare(texts: Prompts) -> Callable[[], object]:
        ids = np.array(texts, dtype=np.int64)
        inputs = {"ids": ids, "mask": np.ones_like(ids)}
        return lambda: request.infer(inputs)

    measure_encoder(prepare, task)


if __name__ == "__main__":
    main(Task.read())

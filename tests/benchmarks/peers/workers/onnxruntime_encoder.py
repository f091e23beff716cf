"""onnxruntime: an encoder from ONNX, with all of its graph optimisations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

from tests.benchmarks.peers.workers.measuring import Prompts, measure_encoder
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(task.model, options, providers=["CPUExecutionProvider"])

    def prepare(texts: Prompts) -> Callable[[], object]:
        ids = np.array(texts, dtype=np.int64)
        inputs = {"ids": ids, "mask": np.ones_like(ids)}
        return lambda: session.run(None, inputs)

    measure_encoder(prepare, task)


if __name__ == "__main__":
    main(Task.read())

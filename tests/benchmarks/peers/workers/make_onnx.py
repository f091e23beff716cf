"""Writes an encoder as ONNX, of any batch and length."""

from __future__ import annotations

import torch

from tests.benchmarks.peers.workers.encoder_modules import load_encoder
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    model = load_encoder(task.model, full_logits=task.full_logits, dtype=torch.float32)
    ids = torch.randint(1_000, 25_000, (2, 32))
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    torch.onnx.export(
        model,
        (ids, torch.ones_like(ids)),
        task.output,
        input_names=["ids", "mask"],
        output_names=["output"],
        dynamic_shapes=(shape, shape),
        dynamo=True,
    )


if __name__ == "__main__":
    main(Task.read())

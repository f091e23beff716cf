"""transformers: an encoder on a padded batch, with its default attention."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.benchmarks.peers.workers.encoder_modules import load_encoder
from tests.benchmarks.peers.workers.measuring import Prompts, measure_encoder
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    torch.set_num_threads(task.threads)
    model = load_encoder(task.model, full_logits=task.full_logits, dtype=getattr(torch, task.precision))

    def prepare(texts: Prompts) -> Callable[[], object]:
        ids = torch.tensor(texts)
        mask = torch.ones_like(ids)
        return lambda: model(ids, mask)

    with torch.inference_mode():
        measure_encoder(prepare, task)


if __name__ == "__main__":
    main(Task.read())

"""Writes BERT-base (Devlin et al. 2018) with random weights: it says nothing, at the same cost."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForMaskedLM

from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig()).save_pretrained(task.output)


if __name__ == "__main__":
    main(Task.read())

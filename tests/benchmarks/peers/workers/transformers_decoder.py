"""transformers: `generate` on a whole batch, with its default attention."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from tests.benchmarks.peers.workers.measuring import Prompts, measure_decoder
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    torch.set_num_threads(task.threads)
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=getattr(torch, task.precision)).eval()

    def generate(prompts: Prompts, tokens: int) -> None:
        ids = torch.tensor(prompts)
        answer = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
        assert answer.shape == (len(prompts), len(prompts[0]) + tokens)

    with torch.inference_mode():
        measure_decoder(generate, task)


if __name__ == "__main__":
    main(Task.read())

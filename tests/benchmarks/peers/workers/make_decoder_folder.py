"""Writes a GGUF file of the Llama family as a folder in Hugging Face layout, by transformers' own reader.

The folder knows no end of text, so that every request of a load runs to its last token: `transformers serve`
has no way to ask for that.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    source = Path(task.model)
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = LlamaConfig(**{**read.config.to_dict(), "quantization_config": None, "eos_token_id": None})
    plain = LlamaForCausalLM(config)  # what was read of a GGUF file refuses to be saved
    plain.load_state_dict(read.state_dict())
    plain.generation_config.eos_token_id = None
    plain.to(torch.bfloat16).save_pretrained(task.output)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(task.output)


if __name__ == "__main__":
    main(Task.read())

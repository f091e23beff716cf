"""Writes the default decoder as a folder of float32 whose inner places are shuffled.

    python -m tests.benchmarks.shuffled FOLDER
    triptych eval --model FOLDER --quantize int4 --against bfloat16 --text FILE

It computes what it did, but no block of 32 weights lies as in the file that it came from, which was made in
four bits. So this says what rounding costs a model that comes in floats; the file itself would lose nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from models.weights.sources import resolve
from server.settings import Settings

Weights = dict[str, Tensor]


def main(folder: Path) -> None:
    file = resolve("smollm2-135m-instruct", cache=Settings().cache)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = LlamaConfig(**{**read.config.to_dict(), "quantization_config": None})
    plain = LlamaForCausalLM(config)  # what was read of a GGUF file refuses to be saved
    torch.manual_seed(0)
    plain.load_state_dict(shuffled(read.state_dict(), config))
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def shuffled(weights: Weights, config: LlamaConfig) -> Weights:
    """Hidden places are put in one order everywhere, an MLP's inner ones and a head's values in one each."""
    hidden = torch.randperm(config.hidden_size)
    weights = {name: _hidden(name, weight, hidden) for name, weight in weights.items()}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}."
        _values(weights, f"{layer}self_attn.", config)
        _inner(weights, f"{layer}mlp.", torch.randperm(config.intermediate_size))
    return weights


def _hidden(name: str, weight: Tensor, order: Tensor) -> Tensor:
    """Norms, and what writes to the residual stream, have its places in rows; what reads it, in columns."""
    rows = weight.dim() == 1 or name.endswith(("o_proj.weight", "down_proj.weight"))
    return weight[order] if rows else weight[:, order]


def _values(weights: Weights, attention: str, config: LlamaConfig) -> None:
    width, heads, of_keys = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    orders = [torch.randperm(width) for _ in range(of_keys)]
    values = torch.cat([head * width + order for head, order in enumerate(orders)])
    read = torch.cat([head * width + orders[head * of_keys // heads] for head in range(heads)])
    _reorder(weights, f"{attention}v_proj.weight", rows=values)
    _reorder(weights, f"{attention}o_proj.weight", columns=read)


def _inner(weights: Weights, mlp: str, order: Tensor) -> None:
    _reorder(weights, f"{mlp}gate_proj.weight", rows=order)
    _reorder(weights, f"{mlp}up_proj.weight", rows=order)
    _reorder(weights, f"{mlp}down_proj.weight", columns=order)


def _reorder(
    weights: Weights, name: str, *, rows: Tensor | slice = slice(None), columns: Tensor | slice = slice(None)
) -> None:
    weights[name] = weights[name][rows][:, columns]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

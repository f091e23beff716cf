"""PEFT folders of random changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.config import DecoderConfig

Sizes = Mapping[str, tuple[int, int]]  # of modules by name: columns and rows of their weights


def write_lora(folder: Path, sizes: Sizes, *, rank: int = 4, seed: int = 1) -> Path:
    """As PEFT saves an adapter that changes these modules."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (columns, rows) in sizes.items():
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 1, "target_modules": list(sizes)}
    (folder / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": "org/tiny"}))
    return folder


def llama(config: DecoderConfig) -> Sizes:
    """Queries, values and the MLP's way down in every layer."""
    modules = {
        "self_attn.q_proj": (config.hidden_size, config.heads * config.head_dim),
        "self_attn.v_proj": (config.hidden_size, config.kv_heads * config.head_dim),
        "mlp.down_proj": (config.mlp_size, config.hidden_size),
    }
    return {
        f"model.layers.{layer}.{module}": size
        for layer in range(config.layers)
        for module, size in modules.items()
    }

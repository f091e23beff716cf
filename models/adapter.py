"""A masked-LM adapter: a low-rank change of an encoder's linear layers (Hu et al. 2021), and the head on top.

It makes a fill-mask model of an encoder that was trained for something else. The change is merged into a copy
of the linear weights, so it costs nothing at run time; the embeddings stay shared with the original encoder.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.config import EncoderConfig
from models.encoder import Encoder
from models.errors import BrokenCheckpoint, WeightsMismatch
from models.heads import MaskedLM, MaskedLMHead

CONFIG = "adapter_config.json"
WEIGHTS = "adapter.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """For each adapted linear layer `<path>.lora_a` [rank, in] and `<path>.lora_b` [out, rank]; `head.*`."""

    path: Path
    base_sha256: str  # of the model.safetensors that it was trained on, and fits only
    scale: float  # the change of a weight is scale * lora_b @ lora_a
    tensors: Mapping[str, Tensor]


def read_adapter(folder: Path) -> Adapter:
    """Raises BrokenCheckpoint where a file is missing or is not what it should be."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        base, scale = str(config["base_sha256"]), float(config["alpha"]) / float(config["rank"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BrokenCheckpoint(folder, f"not an adapter: {error}") from error
    return Adapter(path=folder, base_sha256=base, scale=scale, tensors=tensors)


def masked_lm(adapter: Adapter, config: EncoderConfig, encoder: Encoder) -> MaskedLM:
    """A fill-mask model beside `encoder`, which is left as it is; the two share their embeddings.

    `encoder` must not be prepacked yet. Raises WeightsMismatch listing every tensor that does not fit.
    """
    shared = {id(encoder.embeddings): encoder.embeddings}
    adapted = copy.deepcopy(encoder, memo=shared)
    words = adapted.embeddings.words
    head = MaskedLMHead(config, words).to(device=words.weight.device, dtype=words.weight.dtype)
    head.requires_grad_(False)
    _prove_complete(adapter, adapted, head)
    merge(adapter, adapted)
    with torch.no_grad():
        for name, parameter in _own_parameters(head).items():
            parameter.copy_(adapter.tensors[f"head.{name}"])
    return MaskedLM(adapted, head).eval()


@torch.no_grad()
def merge(adapter: Adapter, encoder: Encoder) -> None:
    """Add ``scale * lora_b @ lora_a`` to every adapted weight, summed in float32."""
    for path, layer in _linear_layers(encoder).items():
        a, b = (adapter.tensors[f"{path}.{side}"].to(layer.weight.device) for side in ("lora_a", "lora_b"))
        change = adapter.scale * (b.float() @ a.float())
        layer.weight.copy_(layer.weight.float() + change)


def _prove_complete(adapter: Adapter, encoder: Encoder, head: MaskedLMHead) -> None:
    expected = {f"head.{name}": tuple(tensor.shape) for name, tensor in _own_parameters(head).items()}
    for path, layer in _linear_layers(encoder).items():
        rank = len(adapter.tensors.get(f"{path}.lora_a", ()))
        expected[f"{path}.lora_a"] = (rank, layer.in_features)
        expected[f"{path}.lora_b"] = (layer.out_features, rank)
    found = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
    missing, left_over = expected.keys() - found.keys(), found.keys() - expected.keys()
    misshapen = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if missing or left_over or misshapen:
        raise WeightsMismatch(adapter.path, missing=missing, left_over=left_over, misshapen=misshapen)


def _linear_layers(encoder: Encoder) -> dict[str, nn.Linear]:
    """Those of its blocks; the embeddings, which may have one too, are shared and stay as they are."""
    return {
        f"blocks.{path}": layer
        for path, layer in encoder.blocks.named_modules()
        if isinstance(layer, nn.Linear)
    }


def _own_parameters(head: MaskedLMHead) -> dict[str, nn.Parameter]:
    """Without the table that it shares with the encoder."""
    return {name: parameter for name, parameter in head.named_parameters() if name != "words.weight"}

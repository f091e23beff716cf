"""What published files have beside what their models are made of: read past where it says nothing new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import transformers

from models.errors import UnsupportedModel
from models.families.registry import read

YARN = {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}
FILES: Mapping[str, tuple[type, Mapping[str, Any], Mapping[str, Any]]] = {
    "huggyllama/llama-7b": (transformers.LlamaConfig, {}, {"max_sequence_length": 2048}),
    "tiiuae/Falcon3-1B-Base": (transformers.LlamaConfig, {}, {"activation": "swiglu"}),
    "saved by transformers from a GGUF file": (
        transformers.LlamaConfig,
        {},
        {"_model_name_or_path": "Smollm2 135M 8k", "unk_token_id": 0},
    ),
    "NousResearch/Yarn-Llama-2-7b-64k": (
        transformers.LlamaConfig,
        {"rope_parameters": None, "rope_scaling": YARN},
        {"rope_scaling": {**YARN, "finetuned": True}},
    ),
    "google/gemma-2-9b": (
        transformers.Gemma2Config,
        {"sliding_window": 4096},
        {"sliding_window_size": 4096},
    ),
    "sshleifer/distilbart-cnn-12-6": (transformers.BartConfig, {}, {"replacing_rate": 0, "save_step": 58}),
}


def file_of(kind: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**json.loads(kind().to_json_string()), **fields}


@pytest.mark.parametrize("name", FILES)
def test_a_left_over_changes_nothing(name: str) -> None:
    kind, fields, left_over = FILES[name]
    raw = file_of(kind, fields)
    assert read({**raw, **left_over}) == read(raw)


@pytest.mark.parametrize(
    ("kind", "contradiction"),
    [
        (transformers.LlamaConfig, {"activation": "relu"}),
        (transformers.Gemma2Config, {"sliding_window_size": 5}),
    ],
)
def test_what_contradicts_the_rest_is_refused(kind: type, contradiction: Mapping[str, Any]) -> None:
    (key,) = contradiction
    with pytest.raises(UnsupportedModel, match=f"`{key}` is"):
        read(file_of(kind, contradiction))

"""A `config.json` of earlier years means what `transformers` takes it to mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers

from models.errors import UnsupportedModel
from models.families.registry import read
from tests.models.decoder_configs_b import CONFIGS

FILES: dict[str, dict[str, Any]] = {
    "llama, grouped queries": {"rope_theta": 70.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama, tied head": {"rope_theta": 70.0, "rope_scaling": None, "head_dim": None},
    "llama, llama3 scaling": {
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama, YaRN": {
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": None,
        }
    },
    "mistral, window": {"rope_theta": 1_000_000.0, "head_dim": None, "sliding_window": None},
    "qwen2, plain": {"use_sliding_window": False, "sliding_window": 131_072, "max_window_layers": 28},
    "qwen2, upper layers local": {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0},
    "smollm3, plain": {"no_rope_layers": None, "no_rope_layer_interval": 3, "rope_theta": 5_000_000.0},
    "gemma, plain": {"hidden_act": "gelu", "rope_theta": 70.0},
    "gemma2, plain": {"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"},
    "gemma3_text, plain": {
        "rope_theta": 300.0,
        "rope_local_base_freq": 40.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 3,
        "_sliding_window_pattern": None,
    },
    "phi, plain": {"partial_rotary_factor": 0.25, "rope_scaling": None, "rope_theta": 70.0},
    "phi3, plain": {"original_max_position_embeddings": 256, "attention_bias": False},
    "stablelm, plain": {"partial_rotary_factor": 0.5, "rope_theta": 70.0},
    "olmo3, plain": {
        "rope_theta": 500_000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 32,
            "attention_factor": 1.2,
            "beta_fast": 32,
            "beta_slow": 1,
        },
    },
}


def older(name: str) -> dict[str, Any]:
    """As the file would have been written before rotary parameters and kinds of layers were in one place."""
    newer: dict[str, Any] = json.loads(CONFIGS[name]().to_json_string())
    for key in ("rope_parameters", "layer_types"):
        newer.pop(key, None)
    return newer | FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_an_older_file_means_what_the_reference_makes_of_it(name: str) -> None:
    raw = older(name)
    understood = transformers.AutoConfig.for_model(**json.loads(json.dumps(raw)))
    assert read(raw)[1] == read(json.loads(understood.to_json_string()))[1]


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"olmo3, plain"}))
def test_another_base_of_an_older_file_is_not_ignored(name: str) -> None:
    """Or the test above would hold for readers that look at nothing."""
    raw = older(name)
    assert read({**raw, "rope_theta": 12_345.0})[1] != read(raw)[1]


def test_a_base_that_the_reference_takes_for_some_layers_only_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"`rope_theta` is 70.0; only 500000.0 is supported"):
        read(older("olmo3, plain") | {"rope_theta": 70.0})

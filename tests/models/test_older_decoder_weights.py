"""Weights under the names of older files load as well: without a prefix, with buffers, with another head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import WeightsMismatch
from models.loading import LoadedDecoder, load
from tests.models.decoder_configs_a import CONFIGS
from tests.models.paged import CPU, Session

TEXT = [5, 4, 3, 2, 9, 8]
# Of each family: what was put before the names of its body, and the buffers that were saved with it.
OLDER: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "gpt2, plain": ("transformer.", ("h.0.attn.bias", "h.0.attn.masked_bias")),
    "gpt_neo, windows": ("transformer.", ("h.1.attn.attention.bias", "h.1.attn.attention.masked_bias")),
    "gptj, part of a head turned": ("transformer.", ("h.0.attn.bias", "h.0.attn.masked_bias")),
    "gpt_neox, parallel": (
        "gpt_neox.",
        (
            "layers.0.attention.bias",
            "layers.2.attention.masked_bias",
            "layers.1.attention.rotary_emb.inv_freq",
        ),
    ),
    "opt, norms before": ("model.", ()),
    "bloom, plain": ("transformer.", ()),
    "falcon, one key head": ("transformer.", ()),
    "cohere, grouped queries": ("", ("model.layers.0.self_attn.rotary_emb.inv_freq",)),
    "gpt_bigcode, one key head": ("transformer.", ("h.0.attn.bias",)),
}


def saved(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    oracle = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    oracle.save_pretrained(folder)
    return oracle


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@torch.inference_mode()
def assert_computes_what(oracle: Any, folder: Path) -> None:
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    (logits,) = Session(loaded.decoder, loaded.config).step([("text", TEXT)])
    torch.testing.assert_close(logits, oracle(torch.tensor([TEXT])).logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", OLDER)
def test_a_body_without_its_prefix_and_with_its_buffers_loads(name: str, tmp_path: Path) -> None:
    prefix, buffers = OLDER[name]
    oracle = saved(name, tmp_path)
    extra = {name: torch.zeros(1) for name in buffers}
    rewrite(
        tmp_path, lambda weights: {key.removeprefix(prefix): part for key, part in weights.items()} | extra
    )
    assert_computes_what(oracle, tmp_path)


@pytest.mark.parametrize("spelling", ["embed_out.weight", "lm_head.weight"])
def test_the_head_of_gpt_neox_has_had_two_names(spelling: str, tmp_path: Path) -> None:
    oracle = saved("gpt_neox, parallel", tmp_path)
    heads = ("embed_out.weight", "lm_head.weight")
    rewrite(
        tmp_path,
        lambda weights: {spelling if key in heads else key: part for key, part in weights.items()},
    )
    assert_computes_what(oracle, tmp_path)


def test_a_tied_head_that_was_saved_must_be_the_table_of_words(tmp_path: Path) -> None:
    oracle = saved("bloom, plain", tmp_path)
    words = "transformer.word_embeddings.weight"
    rewrite(tmp_path, lambda weights: {**weights, "lm_head.weight": weights[words].clone()})
    assert_computes_what(oracle, tmp_path)
    rewrite(tmp_path, lambda weights: {**weights, "lm_head.weight": weights[words] + 1})
    with pytest.raises(WeightsMismatch, match=r"lm_head\.weight differs"):
        load(tmp_path, device=CPU, dtype=torch.float32)

"""What an encoder-decoder says of inputs and files that it cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import UnsupportedModel, WeightsMismatch
from models.families.registry import read
from models.kv_cache import KVCache
from models.seq2seq import Seq2Seq
from tests.models.paged import CPU
from tests.models.seq2seq_configs import CONFIGS
from tests.models.test_published_seq2seq_configs import PUBLISHED, seq2seq_config
from tests.models.test_seq2seq_parity import load_seq2seq, make_oracle

TINY = {**PUBLISHED["google-t5/t5-small"], "d_ff": 16, "d_kv": 4, "d_model": 8, "num_layers": 1}


@pytest.mark.parametrize(
    ("lengths", "tables", "told"),
    [
        ([5], [[0]], "1 blocks of 4 do not hold 5 tokens"),
        ([3], [[0]], "lengths sum to 3, but there are 5 tokens"),
        ([5, 0], [[0, 1], [2]], "at least one token"),
    ],
)
def test_sources_that_do_not_fit_their_blocks_are_refused(
    lengths: list[int], tables: list[list[int]], told: str
) -> None:
    model = Seq2Seq(seq2seq_config(TINY))
    cache = KVCache(model.config.decoder, num_blocks=4, block_size=4, device=CPU, dtype=torch.float32)
    with pytest.raises(ValueError, match=told):
        model.encode(torch.arange(5), lengths, tables, cache)
    assert not any(layer.any() for layer in (*cache.keys, *cache.values))


def test_a_source_is_written_to_its_own_blocks_only() -> None:
    model = Seq2Seq(seq2seq_config(TINY)).requires_grad_(False)
    cache = KVCache(model.config.decoder, num_blocks=4, block_size=4, device=CPU, dtype=torch.float32)
    model.encode(torch.arange(5), [5], [[3, 1]], cache)
    for layer in (*cache.keys, *cache.values):
        written = layer.abs().sum((1, 3)) > 0  # [blocks, places]
        assert written.tolist() == [[False] * 4, [True, False, False, False], [False] * 4, [True] * 4]


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("t5, plain", "decoder.block.1.layer.1.EncDecAttention.k.weight"),
        ("t5, plain", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("bart, plain", "model.decoder.layers.0.encoder_attn_layer_norm.bias"),
        ("marian, two vocabularies and a head", "lm_head.weight"),
    ],
)
def test_a_tensor_that_is_missing_is_named(name: str, removed: str, tmp_path: Path) -> None:
    make_oracle(CONFIGS[name]()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors[removed]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsMismatch, match=removed.removeprefix("model.").replace(".", r"\.")):
        load_seq2seq(tmp_path)


def test_a_relative_that_is_not_supported_is_told_which_is() -> None:
    with pytest.raises(UnsupportedModel, match="'umt5', which is not supported; the nearest that is: mt5"):
        read({**TINY, "model_type": "umt5"})

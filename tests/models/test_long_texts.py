"""Texts longer than a tile and than 512 tokens, in blocks of other sizes, of choices that few models join."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models.loading import LoadedDecoder, load
from tests.models.decoder_configs_a import FALCON, SIZES, config
from tests.models.paged import CPU, Session
from tests.models.parity import report
from tests.models.test_decoder_parity import largest, make_oracle, tokens_of

LONG = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 1024}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: Mapping[str, Callable[[], Any]] = {
    "falcon, ALiBi, grouped queries": config(
        transformers.FalconConfig, FALCON, alibi=True, new_decoder_architecture=True, num_kv_heads=2
    ),
    "phi, YaRN of a part of a head": config(
        transformers.PhiConfig,
        LONG,
        rope_parameters={**YARN, "partial_rotary_factor": 0.5},
        qk_layernorm=True,
    ),
    "stablelm, Llama 3's scaling of a part of a head": config(
        transformers.StableLmConfig, LONG, rope_parameters={**LLAMA3, "partial_rotary_factor": 0.5}
    ),
    "gemma2, caps and windows under YaRN": config(
        transformers.Gemma2Config,
        LONG,
        head_dim=8,
        rope_parameters=YARN,
        sliding_window=140,
        attn_logit_softcapping=2.0,
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Quickest for small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_long_text_in_two_pieces_gives_what_the_reference_gives(name: str, tmp_path: Path) -> None:
    oracle = make_oracle(CONFIGS[name](), tmp_path)
    loaded = load(tmp_path, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    text = tokens_of(700)
    with torch.inference_mode():
        expected = oracle(torch.tensor([text])).logits[0]
    family, _, choices = name.partition(", ")
    for block_size in (1, 24, 64):
        session = Session(loaded.decoder, loaded.config, block_size=block_size, num_blocks=800)
        (first,) = session.step([("text", text[:530])])
        rest, _ = session.step([("text", text[530:]), ("beside it", text[:1])])
        error = largest(torch.cat([first, rest]) - expected)
        report(family, f"{choices}, blocks of {block_size}", "logits", error)
        assert error <= 1e-4

"""Every decoder family computes what `transformers` computes, from the files that it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from models.loading import LoadedDecoder, load
from tests.models.paged import CPU, Session

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
CONFIGS: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=97, n_positions=256, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=1
    ),
    "llama, grouped queries": lambda: transformers.LlamaConfig(**SIZES),
    "llama, tied head": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama, biases, head size of its own": lambda: transformers.LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, head_dim=24
    ),
    "llama, llama3 scaling": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama, linear scaling": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LINEAR),
    "mistral, window": lambda: transformers.MistralConfig(**SIZES, sliding_window=7),
    "mistral, no window": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
}


@pytest.fixture(params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, LoadedDecoder]:
    """A model of random weights as the oracle has it, and as we load it from its files."""
    torch.manual_seed(0)
    oracle = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():  # biases and norms too, which start as 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle.save_pretrained(tmp_path)
    loaded = load(tmp_path, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    return oracle, loaded


@torch.inference_mode()
def expected_logits(oracle: Any, tokens: list[int]) -> Tensor:
    logits: Tensor = oracle(torch.tensor([tokens])).logits[0]
    return logits


def tokens_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(2, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_logits_are_those_of_the_reference(pair: tuple[Any, LoadedDecoder]) -> None:
    oracle, loaded = pair
    session = Session(loaded.decoder, loaded.config)
    texts = {"a": tokens_of(45), "b": tokens_of(1, 1), "c": tokens_of(150, 2)}
    for (_, text), logits in zip(texts.items(), session.step(texts.items()), strict=True):
        torch.testing.assert_close(logits, expected_logits(oracle, text), atol=1e-4, rtol=0)


def test_greedy_tokens_are_those_of_the_reference(pair: tuple[Any, LoadedDecoder]) -> None:
    oracle, loaded = pair
    prompt = tokens_of(11)
    ours = Session(loaded.decoder, loaded.config, block_size=4).greedy("text", prompt, 20)
    for _ in ours:
        prompt.append(int(expected_logits(oracle, prompt)[-1].argmax()))
    assert ours == prompt[11:]


def test_parameters_are_counted_once(pair: tuple[Any, LoadedDecoder]) -> None:
    oracle, loaded = pair
    assert loaded.parameters == sum(parameter.numel() for parameter in oracle.parameters())


def test_shards_load_as_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    oracle = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()
    oracle.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load(tmp_path, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    (logits,) = Session(loaded.decoder, loaded.config).step([("text", tokens_of(9))])
    torch.testing.assert_close(logits, expected_logits(oracle, tokens_of(9)), atol=1e-4, rtol=0)

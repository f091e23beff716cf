"""A GGUF file gives the very model that it was converted from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from models.errors import UnsupportedModel
from models.families.gguf import HAS_HEAD
from models.families.registry import read
from models.loading import LoadedDecoder, load
from tests.models.paged import CPU, Session

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "transformer.h.{}.ln_1": "blk.{}.attn_norm",
    "transformer.h.{}.attn.c_attn": "blk.{}.attn_qkv",
    "transformer.h.{}.attn.c_proj": "blk.{}.attn_output",
    "transformer.h.{}.ln_2": "blk.{}.ffn_norm",
    "transformer.h.{}.mlp.c_fc": "blk.{}.ffn_up",
    "transformer.h.{}.mlp.c_proj": "blk.{}.ffn_down",
}


def llama_tensors(oracle: Any, *, paired: bool) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in untied(oracle).items():
        if paired and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleave(tensor, head_dim=8)
        tensors[rename(name, LLAMA_NAMES)] = tensor
    return tensors


def gpt2_tensors(oracle: Any) -> dict[str, Tensor]:
    # The converter transposes Conv1D weights.
    return {
        rename(name, GPT2_NAMES): tensor.t() if ".c_" in name and tensor.dim() == 2 else tensor
        for name, tensor in untied(oracle).items()
    }


def untied(oracle: Any) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in oracle.named_parameters()}


def interleave(tensor: Tensor, head_dim: int) -> Tensor:
    """What llama.cpp's converter does to LLaMA's query and key weights (`LlamaModel.permute`)."""
    return tensor.view(-1, 2, head_dim // 2, tensor.shape[-1]).transpose(1, 2).reshape(tensor.shape)


def rename(name: str, names: Mapping[str, str]) -> str:
    module, _, suffix = name.rpartition(".")
    number = next((part for part in module.split(".") if part.isdigit()), "")
    return names[module.replace(f".{number}.", ".{}.")].format(number) + f".{suffix}"


def write_gguf(
    path: Path, architecture: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, int | float | str]
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    kinds = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in metadata.items():
        kinds[type(value)](f"{architecture}.{key}", value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LLAMA_METADATA: dict[str, int | float | str] = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 8,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 5000.0,
}
GPT2_METADATA: dict[str, int | float | str] = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.layer_norm_epsilon": 1e-5,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}}
CASES: dict[str, tuple[Callable[[], Any], str, dict[str, int | float | str]]] = {
    "llama": (lambda: transformers.LlamaConfig(**SIZES, **ROPE), "llama", LLAMA_METADATA),
    "llama, tied": (
        lambda: transformers.LlamaConfig(**SIZES, **ROPE, tie_word_embeddings=True),
        "llama",
        LLAMA_METADATA,
    ),
    "llama, linear scaling": (
        lambda: transformers.LlamaConfig(**SIZES, **LINEAR),
        "llama",
        {**LLAMA_METADATA, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "qwen2": (lambda: transformers.Qwen2Config(**SIZES, **ROPE), "qwen2", LLAMA_METADATA),
    "qwen3": (lambda: transformers.Qwen3Config(**SIZES, **ROPE, head_dim=8), "qwen3", LLAMA_METADATA),
    "gpt2": (
        lambda: transformers.GPT2Config(
            vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
        ),
        "gpt2",
        GPT2_METADATA,
    ),
}


def random_oracle(config: Any) -> Any:
    torch.manual_seed(0)
    oracle = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return oracle


@torch.inference_mode()
def assert_same(oracle: Any, path: Path) -> None:
    loaded = load(path, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    tokens = torch.randint(0, 64, (40,), generator=torch.Generator().manual_seed(1))
    (logits,) = Session(loaded.decoder, loaded.config).step([("text", tokens.tolist())])
    torch.testing.assert_close(logits, oracle(tokens[None]).logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_converted_model(case: str, tmp_path: Path) -> None:
    config, architecture, metadata = CASES[case]
    oracle = random_oracle(config())
    tensors = (
        gpt2_tensors(oracle)
        if architecture == "gpt2"
        else llama_tensors(oracle, paired=architecture == "llama")
    )
    write_gguf(tmp_path / "model.gguf", architecture, tensors, metadata)
    assert_same(oracle, tmp_path / "model.gguf")


def test_llama3_scaling_is_read_from_its_tensor_of_factors(tmp_path: Path) -> None:
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    oracle = random_oracle(transformers.LlamaConfig(**SIZES, rope_parameters=llama3))
    plain = 5000.0 ** (-torch.arange(0, 8, 2) / 8)
    factors = plain / oracle.model.rotary_emb.inv_freq
    tensors = llama_tensors(oracle, paired=True) | {"rope_freqs.weight": factors}
    write_gguf(tmp_path / "model.gguf", "llama", tensors, LLAMA_METADATA)
    assert_same(oracle, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("mamba", {}, "`general.architecture` is 'mamba'; supported: llama, qwen2, qwen3, gpt2"),
        ("llama", {"rope.scaling.type": "yarn"}, "`llama.rope.scaling.type` is 'yarn'"),
        ("llama", {"expert_count": 8}, "`llama.expert_count` is 8"),
        ("llama", {"rope.dimension_count": 4}, "`llama.rope.dimension_count` is 4, not 8"),
        ("llama", {"block_count": 0}, "`llama.block_count`"),
        ("llama", {"rope.scale_linear": 2}, "`llama.rope.scale_linear` is 2; only 1.0"),
        ("llama", {"attention.causal": 0}, "`llama.attention.causal` is 0; only True"),  # an encoder's
        ("llama", {"attention.value_length": 4}, "`llama.attention.value_length` is 4; only 8"),
        ("llama", {"residual_scale": 2}, "has `llama.residual_scale` 2: not supported for llama"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    architecture: str, changes: dict[str, int | str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    tensors = {"token_embd.weight": torch.zeros(64, 32)}
    write_gguf(file, architecture, tensors, {**LLAMA_METADATA, **changes})
    with pytest.raises(UnsupportedModel) as caught:
        load(file, device=CPU, dtype=torch.float32)
    assert message in str(caught.value)


@pytest.mark.parametrize("making", [{"tensor_data_layout": "Meta AI original pth"}, {"pooling_type": 0}])
def test_what_a_file_says_of_its_making_is_read_past(making: dict[str, int | str]) -> None:
    plain = {f"llama.{key}": value for key, value in LLAMA_METADATA.items()}
    plain |= {"general.architecture": "llama", "llama.vocab_size": 64, HAS_HEAD: True}
    made = {f"llama.{key}": value for key, value in making.items()}
    assert read({**plain, **made}) == read(plain)

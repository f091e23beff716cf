"""Tiny configurations in which, together, every optional field is used that LLaMA and its kin have."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR: dict[str, Any] = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 5_000.0, "factor": 3.0}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}
GEMMA: dict[str, Any] = {"head_dim": 16, "num_key_value_heads": 1}
KINDS = ["full_attention", "sliding_attention", "full_attention"]


def build(config: Any, **fields: Any) -> Callable[[], Any]:
    """Nested objects are copied: transformers fills in what they leave out."""
    return lambda: config(**deepcopy(SIZES | fields))


llama = partial(build, transformers.LlamaConfig)
mistral = partial(build, transformers.MistralConfig)
ministral = partial(build, transformers.MinistralConfig, head_dim=8)
qwen2 = partial(build, transformers.Qwen2Config)
qwen3 = partial(build, transformers.Qwen3Config, head_dim=16)
smollm3 = partial(build, transformers.SmolLM3Config)
gemma = partial(build, transformers.GemmaConfig, **GEMMA)
gemma2 = partial(build, transformers.Gemma2Config, **GEMMA, sliding_window=6)
gemma3 = partial(build, transformers.Gemma3TextConfig, **GEMMA, sliding_window=6)
phi = partial(build, transformers.PhiConfig)
phi3 = partial(build, transformers.Phi3Config)
stablelm = partial(build, transformers.StableLmConfig)
olmo = partial(build, transformers.OlmoConfig)
olmo2 = partial(build, transformers.Olmo2Config)
olmo3 = partial(build, transformers.Olmo3Config, sliding_window=6)

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama, grouped queries": llama(),
    "llama, tied head": llama(tie_word_embeddings=True, rms_norm_eps=1e-3, hidden_act="gelu"),
    "llama, biases, head size of its own": llama(attention_bias=True, mlp_bias=True, head_dim=24),
    "llama, llama3 scaling": llama(rope_parameters=LLAMA3),
    "llama, linear scaling": llama(rope_parameters=LINEAR),
    "llama, dynamic scaling": llama(rope_parameters=DYNAMIC, max_position_embeddings=32),
    "llama, YaRN": llama(rope_parameters=YARN),
    "llama, YaRN, magnitude stated": llama(rope_parameters=YARN | {"attention_factor": 1.7, "beta_fast": 4}),
    "llama, YaRN, magnitudes divided": llama(
        rope_parameters=YARN | {"mscale": 2.0, "mscale_all_dim": 0.5, "beta_slow": 0.3}
    ),
    "llama, YaRN, parts of pairs": llama(rope_parameters=YARN | {"truncate": False, "rope_theta": 1000.0}),
    "llama, YaRN, every pair slow": llama(
        rope_parameters=YARN | {"rope_theta": 1.5, "original_max_position_embeddings": 4}
    ),
    "mistral, window": mistral(sliding_window=7, tie_word_embeddings=True),
    "mistral, no window": mistral(sliding_window=None, head_dim=12),
    "mistral, YaRN in a window": mistral(sliding_window=40, rope_parameters=YARN, hidden_act="relu"),
    "ministral, window": ministral(sliding_window=9),
    "ministral, no layer local": ministral(
        layer_types=["full_attention"] * 3, sliding_window=7, head_dim=12, tie_word_embeddings=True
    ),
    "ministral, some layers local": ministral(
        sliding_window=9,
        layer_types=KINDS,
        rope_parameters=LINEAR,
    ),
    "qwen2, plain": qwen2(),
    "qwen2, tied, dynamic scaling": qwen2(
        tie_word_embeddings=True, rope_parameters=DYNAMIC, max_position_embeddings=32
    ),
    "qwen2, upper layers local": qwen2(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen2, layers by name": qwen2(
        use_sliding_window=True,
        sliding_window=11,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "qwen3, plain": qwen3(),
    "qwen3, biases, tied": qwen3(attention_bias=True, tie_word_embeddings=True, hidden_act="gelu"),
    "qwen3, local layers, YaRN": qwen3(
        use_sliding_window=True, sliding_window=5, max_window_layers=1, rope_parameters=YARN
    ),
    "smollm3, plain": smollm3(num_hidden_layers=5),
    "smollm3, layers by name, biases, untied": smollm3(
        no_rope_layers=[0, 1, 1],
        layer_types=KINDS,
        sliding_window=6,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        rope_parameters=YARN,
    ),
    "smollm3, local where not rotated": smollm3(
        no_rope_layer_interval=2,
        use_sliding_window=True,
        sliding_window=6,
        rms_norm_eps=1e-3,
        hidden_act="gelu",
    ),
    "gemma, plain": gemma(),
    "gemma, untied, biases": gemma(tie_word_embeddings=False, attention_bias=True, rms_norm_eps=1e-3),
    "gemma, old activation, linear scaling": gemma(hidden_act="gelu", rope_parameters=LINEAR),
    "gemma2, plain": gemma2(),
    "gemma2, low caps": gemma2(
        attn_logit_softcapping=0.5, final_logit_softcapping=2.0, query_pre_attn_scalar=3, layer_types=KINDS
    ),
    "gemma2, no caps, untied, biases": gemma2(
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=False,
        attention_bias=True,
        hidden_activation="silu",
        rope_parameters=YARN,
    ),
    "gemma3_text, plain": gemma3(num_hidden_layers=7),
    "gemma3_text, scaled where all is seen": gemma3(
        layer_types=KINDS,
        rope_parameters={
            "full_attention": LINEAR | {"rope_theta": 70.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=7,
    ),
    "gemma3_text, older file": gemma3(
        num_hidden_layers=4,
        sliding_window_pattern=2,
        rope_theta=300.0,
        rope_local_base_freq=40.0,
        rope_scaling={"rope_type": "linear", "factor": 2.0},
        attention_bias=True,
        tie_word_embeddings=False,
        hidden_activation="relu",
    ),
    "phi, plain": phi(),
    "phi, tied, normed queries and keys": phi(tie_word_embeddings=True, qk_layernorm=True, hidden_act="gelu"),
    "phi, all of a head turned, linear scaling": phi(
        partial_rotary_factor=1.0, rope_parameters=LINEAR, layer_norm_eps=1e-3
    ),
    "phi3, plain": phi3(),
    "phi3, window, tied": phi3(sliding_window=7, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "phi3, a part of a head turned": phi3(
        hidden_size=64, partial_rotary_factor=0.75, rope_theta=50.0, hidden_act="gelu"
    ),
    "stablelm, plain": stablelm(),
    "stablelm, biases, parallel, tied": stablelm(
        use_qkv_bias=True, use_parallel_residual=True, tie_word_embeddings=True, hidden_act="relu"
    ),
    "stablelm, normed queries and keys": stablelm(
        qk_layernorm=True, partial_rotary_factor=0.5, layer_norm_eps=1e-3, rope_parameters=YARN
    ),
    "olmo, plain": olmo(),
    "olmo, clipped, biases": olmo(clip_qkv=0.2, attention_bias=True, rope_parameters=LINEAR),
    "olmo, tied": olmo(tie_word_embeddings=True, num_key_value_heads=None, hidden_act="gelu"),
    "olmo2, plain": olmo2(),
    "olmo2, biases, head size of its own": olmo2(attention_bias=True, head_dim=12, rms_norm_eps=1e-3),
    "olmo2, tied, YaRN": olmo2(tie_word_embeddings=True, rope_parameters=YARN, hidden_act="gelu"),
    "olmo3, plain": olmo3(num_hidden_layers=5),
    "olmo3, biases, scaled where all is seen": olmo3(
        layer_types=KINDS,
        attention_bias=True,
        rope_parameters={
            "full_attention": YARN,
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
    ),
    "olmo3, older file": olmo3(
        num_hidden_layers=5,
        rope_scaling={key: YARN[key] for key in YARN if key != "rope_theta"},
        tie_word_embeddings=True,
        rms_norm_eps=1e-3,
    ),
}

"""Tiny configurations in which, together, every optional field is used that GPT-2 and its heirs have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers

TEXT: Mapping[str, Any] = {"vocab_size": 97, "bos_token_id": 0, "eos_token_id": 1}
GPT2: Mapping[str, Any] = {**TEXT, "n_positions": 256, "n_embd": 32, "n_layer": 3, "n_head": 4}
SIZES: Mapping[str, Any] = {
    **TEXT,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
NEO: Mapping[str, Any] = {
    **TEXT,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "max_position_embeddings": 256,
    "attention_types": [[["global", "local"], 1], [["local"], 1]],
    "window_size": 7,
}
OPT: Mapping[str, Any] = {
    **TEXT,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
BLOOM: Mapping[str, Any] = {**TEXT, "hidden_size": 32, "n_layer": 3, "n_head": 4}
FALCON: Mapping[str, Any] = {**TEXT, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
COHERE: Mapping[str, Any] = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 1}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 3_000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 5_000.0, "factor": 3.0}


def config(kind: Callable[..., Any], sizes: Mapping[str, Any], **fields: Any) -> Callable[[], Any]:
    return lambda: kind(**{**sizes, **fields})


CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2, plain": config(transformers.GPT2Config, GPT2),
    "gpt2, sizes and activation of its own": config(
        transformers.GPT2Config, GPT2, n_inner=40, activation_function="relu", layer_norm_epsilon=1e-2
    ),
    "gpt2, unscaled scores, untied head": config(
        transformers.GPT2Config, GPT2, scale_attn_weights=False, tie_word_embeddings=False
    ),
    "gpt_neo, windows": config(transformers.GPTNeoConfig, NEO),
    "gpt_neo, all layers see all": config(
        transformers.GPTNeoConfig,
        NEO,
        attention_types=[[["global"], 3]],
        intermediate_size=40,
        layer_norm_epsilon=1e-2,
    ),
    "gpt_neo, all layers local, untied head": config(
        transformers.GPTNeoConfig,
        NEO,
        attention_types=[[["local"], 3]],
        window_size=20,
        activation_function="relu",
        tie_word_embeddings=False,
    ),
    "gptj, part of a head turned": config(transformers.GPTJConfig, GPT2, rotary_dim=4),
    "gptj, whole heads turned, tied head": config(
        transformers.GPTJConfig, GPT2, rotary_dim=8, tie_word_embeddings=True
    ),
    "gptj, sizes and activation of its own": config(
        transformers.GPTJConfig,
        GPT2,
        rotary_dim=2,
        n_inner=40,
        activation_function="relu",
        layer_norm_epsilon=1e-2,
    ),
    "gpt_neox, parallel": config(transformers.GPTNeoXConfig, SIZES),
    "gpt_neox, sequential, no bias, whole heads turned": config(
        transformers.GPTNeoXConfig,
        SIZES,
        use_parallel_residual=False,
        attention_bias=False,
        rotary_pct=1.0,
        rotary_emb_base=500,
    ),
    "gpt_neox, tied head, activation of its own": config(
        transformers.GPTNeoXConfig,
        SIZES,
        tie_word_embeddings=True,
        hidden_act="relu",
        layer_norm_eps=1e-2,
        rotary_pct=0.5,
    ),
    "gpt_neox, dynamic scaling": config(
        transformers.GPTNeoXConfig,
        SIZES,
        rope_parameters=DYNAMIC | {"partial_rotary_factor": 0.5},
        max_position_embeddings=32,
    ),
    "opt, norms before": config(transformers.OPTConfig, OPT),
    "opt, norms behind, narrow embeddings": config(
        transformers.OPTConfig, OPT, do_layer_norm_before=False, word_embed_proj_dim=16
    ),
    "opt, bare norms, no bias": config(
        transformers.OPTConfig,
        OPT,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
        activation_function="gelu",
    ),
    "opt, no last norm, untied narrow head": config(
        transformers.OPTConfig,
        OPT,
        _remove_final_layer_norm=True,
        tie_word_embeddings=False,
        word_embed_proj_dim=24,
    ),
    "bloom, plain": config(transformers.BloomConfig, BLOOM),
    "bloom, a number of heads that is no power of two": config(
        transformers.BloomConfig, BLOOM, hidden_size=48, n_head=6, layer_norm_epsilon=1e-2
    ),
    "bloom, one head, untied": config(transformers.BloomConfig, BLOOM, n_head=1, tie_word_embeddings=False),
    "falcon, one key head": config(transformers.FalconConfig, FALCON),
    "falcon, a key head for each query, biases": config(
        transformers.FalconConfig, FALCON, multi_query=False, bias=True, ffn_hidden_size=40, activation="relu"
    ),
    "falcon, sequential, ALiBi": config(
        transformers.FalconConfig, FALCON, alibi=True, multi_query=False, parallel_attn=False, bias=True
    ),
    "falcon, ALiBi, rounded slopes": config(
        transformers.FalconConfig, FALCON, alibi=True, hidden_size=48, num_attention_heads=6
    ),
    "falcon, grouped queries, two norms": config(
        transformers.FalconConfig, FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=True
    ),
    "falcon, grouped queries, one norm, untied head": config(
        transformers.FalconConfig,
        FALCON,
        new_decoder_architecture=True,
        num_kv_heads=2,
        num_ln_in_parallel_attn=1,
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-2,
        rope_parameters=LINEAR,
    ),
    "cohere, grouped queries": config(transformers.CohereConfig, COHERE),
    "cohere, norms of queries and keys": config(
        transformers.CohereConfig,
        COHERE,
        use_qk_norm=True,
        logit_scale=0.5,
        rope_parameters={"rope_type": "default", "rope_theta": 700.0},
    ),
    "cohere, biases, untied head, YaRN": config(
        transformers.CohereConfig,
        COHERE,
        num_key_value_heads=None,
        attention_bias=True,
        tie_word_embeddings=False,
        layer_norm_eps=1e-2,
        hidden_act="gelu",
        rope_parameters=YARN,
    ),
    "gpt_bigcode, one key head": config(transformers.GPTBigCodeConfig, GPT2),
    "gpt_bigcode, a key head for each query": config(
        transformers.GPTBigCodeConfig, GPT2, multi_query=False, n_inner=40, activation_function="relu"
    ),
    "gpt_bigcode, unscaled scores, untied head": config(
        transformers.GPTBigCodeConfig,
        GPT2,
        scale_attn_weights=False,
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-2,
    ),
}

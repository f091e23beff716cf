"""Files of the hub as their authors published them, years ago, are read as transformers reads them today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers

from models.config import DecoderConfig, Local, Residual
from models.decoder import Decoder
from models.errors import UnsupportedModel
from models.families.registry import read
from models.positions import Alibi, LinearScaling, Rotary

SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
TRAINING = {"initializer_range": 0.02, "use_cache": True, "transformers_version": "4.20.0"}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "distilgpt2": {
        **SUMMARY,
        "_num_labels": 1,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 6,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "EleutherAI/gpt-neo-125m": {
        **SUMMARY,
        **TRAINING,
        "activation_function": "gelu_new",
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * 6,
        "attention_types": [[["global", "local"], 6]],
        "embed_dropout": 0,
        "gradient_checkpointing": False,
        "hidden_size": 768,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neo",
        "num_heads": 12,
        "num_layers": 12,
        "resid_dropout": 0,
        "vocab_size": 50257,
        "window_size": 256,
    },
    "EleutherAI/gpt-j-6b": {
        **SUMMARY,
        **TRAINING,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "gradient_checkpointing": False,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gptj",
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 28,
        "n_positions": 2048,
        "resid_pdrop": 0.0,
        "rotary": True,
        "rotary_dim": 64,
        "scale_attn_weights": True,
        "task_specific_params": {"text-generation": {"do_sample": True}},
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "vocab_size": 50400,
    },
    "EleutherAI/pythia-70m": {
        **TRAINING,
        "hidden_act": "gelu",
        "hidden_size": 512,
        "intermediate_size": 2048,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neox",
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "facebook/opt-350m": {
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "attention_dropout": 0.0,
        "do_layer_norm_before": False,
        "dropout": 0.1,
        "ffn_dim": 4096,
        "hidden_size": 1024,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "pad_token_id": 1,
        "prefix": "</s>",
        "vocab_size": 50272,
        "word_embed_proj_dim": 512,
    },
    "bigscience/bloom-560m": {
        **TRAINING,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "hidden_dropout": 0.0,
        "layer_norm_epsilon": 1e-05,
        "masked_softmax_fusion": True,
        "model_type": "bloom",
        "n_embed": 1024,
        "n_inner": None,
        "n_layer": 24,
        "num_attention_heads": 16,
        "offset_alibi": 100,
        "pad_token_id": 3,
        "pretraining_tp": 1,
        "skip_bias_add": True,
        "skip_bias_add_qkv": False,
        "unk_token_id": 0,
        "vocab_size": 250880,
    },
    "tiiuae/falcon-7b": {
        **TRAINING,
        "alibi": False,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"},
        "bias": False,
        "hidden_dropout": 0.0,
        "hidden_size": 4544,
        "layer_norm_epsilon": 1e-05,
        "model_type": "falcon",
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 71,
        "num_hidden_layers": 32,
        "parallel_attn": True,
        "vocab_size": 65024,
    },
    "tiiuae/falcon-rw-1b": {
        **TRAINING,
        "alibi": True,
        "apply_residual_connection_post_layernorm": False,
        "bias": True,
        "hidden_size": 2048,
        "layer_norm_epsilon": 1e-05,
        "model_type": "falcon",
        "multi_query": False,
        "new_decoder_architecture": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "parallel_attn": False,
        "vocab_size": 50304,
    },
    "tiiuae/falcon-40b": {
        **TRAINING,
        "alibi": False,
        "bias": False,
        "hidden_size": 8192,
        "layer_norm_epsilon": 1e-05,
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_attention_heads": 128,
        "num_hidden_layers": 60,
        "num_kv_heads": 8,
        "parallel_attn": True,
        "vocab_size": 65024,
    },
    "CohereForAI/c4ai-command-r-v01": {
        **TRAINING,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "layer_norm_eps": 1e-05,
        "logit_scale": 0.0625,
        "max_position_embeddings": 8192,
        "model_max_length": 131072,
        "model_type": "cohere",
        "num_attention_heads": 64,
        "num_hidden_layers": 40,
        "num_key_value_heads": 64,
        "rope_theta": 8000000.0,
        "use_qk_norm": False,
        "vocab_size": 256000,
    },
    "bigcode/starcoderbase-1b": {
        **SUMMARY,
        **TRAINING,
        "activation_function": "gelu_pytorch_tanh",
        "attention_softmax_in_fp32": True,
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "inference_runner": 0,
        "layer_norm_epsilon": 1e-05,
        "max_batch_size": None,
        "max_sequence_length": None,
        "model_type": "gpt_bigcode",
        "multi_query": True,
        "n_embd": 2048,
        "n_head": 16,
        "n_inner": 8192,
        "n_layer": 24,
        "n_positions": 8192,
        "pad_key_length": True,
        "pre_allocate_kv_cache": False,
        "resid_pdrop": 0.1,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
        "validate_runner_input": True,
        "vocab_size": 49152,
    },
}


def decoder_config(raw: Mapping[str, Any]) -> DecoderConfig:
    _, config = read(raw)
    assert isinstance(config, DecoderConfig)
    return config


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_gives_a_model_of_the_size_that_transformers_makes_of_it(name: str) -> None:
    raw = PUBLISHED[name]
    with torch.device("meta"):
        ours = Decoder(decoder_config(raw))
        kind = transformers.CONFIG_MAPPING[raw["model_type"]]
        theirs = transformers.AutoModelForCausalLM.from_config(kind.from_dict(json.loads(json.dumps(raw))))
    assert size(ours) == size(theirs)


def test_older_files_say_how_positions_are_rotated_in_other_words() -> None:
    pythia = PUBLISHED["EleutherAI/pythia-70m"]
    assert decoder_config(pythia).positions == Rotary(size=16)
    scaled = {**pythia, "rotary_pct": 1.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert decoder_config(scaled).positions == Rotary(scaling=LinearScaling(factor=2.0))


def test_every_other_layer_of_gpt_neo_sees_the_last_256_tokens() -> None:
    expected = Local(layers=frozenset(range(1, 12, 2)), window=256)
    assert decoder_config(PUBLISHED["EleutherAI/gpt-neo-125m"]).local == expected


def test_falcons_are_wired_in_three_ways() -> None:
    names = ("tiiuae/falcon-7b", "tiiuae/falcon-rw-1b", "tiiuae/falcon-40b")
    configs = [decoder_config(PUBLISHED[name]) for name in names]
    assert [config.residual for config in configs] == [
        Residual.PARALLEL_SHARED,
        Residual.PRE,
        Residual.PARALLEL,
    ]
    assert [config.kv_heads for config in configs] == [1, 32, 8]
    assert configs[1].positions == Alibi(scale=0.125, rounded=True)


def test_command_r_takes_as_long_a_text_as_it_was_trained_for() -> None:
    assert decoder_config(PUBLISHED["CohereForAI/c4ai-command-r-v01"]).context_length == 131_072


def test_two_names_for_one_thing_must_agree() -> None:
    bloom = PUBLISHED["bigscience/bloom-560m"]
    assert decoder_config({**bloom, "hidden_size": 1024}) == decoder_config(bloom)
    with pytest.raises(UnsupportedModel, match=r"`n_embed` is 1024, but `hidden_size`.* 64"):
        read({**bloom, "hidden_size": 64})

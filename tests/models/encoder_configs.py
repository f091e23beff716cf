"""Configurations of encoder families: together, those of one exercise every optional field that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers

SIZES = {
    "vocab_size": 83,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 140,
}
DISTILBERT = {
    "vocab_size": 83,
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 140,
}
DEBERTA = {
    **SIZES,
    "relative_attention": True,
    "position_buckets": 16,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 35}
LINEAR = {"rope_type": "linear", "rope_theta": 20_000.0, "factor": 2.0}


def deberta(**changes: Any) -> Any:
    return transformers.DebertaV2Config(**{**DEBERTA, **changes})


def modernbert(**changes: Any) -> Any:
    small: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "local_attention": 12}
    return transformers.ModernBertConfig(
        **{**SIZES, "cls_token_id": 1, "sep_token_id": 2, **small, **changes}
    )


# "family, what is special": the configuration. The first of a family is the one that is fuzzed.
CONFIGS: Mapping[str, Callable[[], Any]] = {
    "bert, plain": lambda: transformers.BertConfig(**SIZES),
    "bert, another activation": lambda: transformers.BertConfig(**SIZES, hidden_act="relu"),
    "bert, four segments": lambda: transformers.BertConfig(**SIZES, type_vocab_size=4, layer_norm_eps=1e-3),
    "roberta, plain": lambda: transformers.RobertaConfig(**SIZES, type_vocab_size=1),
    "roberta, another activation": lambda: transformers.RobertaConfig(**SIZES, hidden_act="gelu_new"),
    "roberta, another padding": lambda: transformers.RobertaConfig(
        **SIZES, pad_token_id=0, layer_norm_eps=1e-3
    ),
    "xlm-roberta, plain": lambda: transformers.XLMRobertaConfig(**SIZES, type_vocab_size=1),
    "xlm-roberta, another activation": lambda: transformers.XLMRobertaConfig(**SIZES, hidden_act="relu"),
    "xlm-roberta, two segments": lambda: transformers.XLMRobertaConfig(**SIZES, layer_norm_eps=1e-3),
    "camembert, plain": lambda: transformers.CamembertConfig(**SIZES, type_vocab_size=1),
    "camembert, another activation": lambda: transformers.CamembertConfig(**SIZES, hidden_act="silu"),
    "camembert, another padding": lambda: transformers.CamembertConfig(**SIZES, pad_token_id=2),
    "distilbert, plain": lambda: transformers.DistilBertConfig(**DISTILBERT),
    "distilbert, another activation": lambda: transformers.DistilBertConfig(**DISTILBERT, activation="relu"),
    "distilbert, sinusoids": lambda: transformers.DistilBertConfig(**DISTILBERT, sinusoidal_pos_embds=True),
    "albert, plain": lambda: transformers.AlbertConfig(**SIZES, embedding_size=24),
    "albert, two groups of three": lambda: transformers.AlbertConfig(
        **SIZES, embedding_size=24, num_hidden_groups=2, inner_group_num=3
    ),
    "albert, nothing smaller, another activation": lambda: transformers.AlbertConfig(
        **SIZES, embedding_size=32, hidden_act="relu", layer_norm_eps=1e-3
    ),
    "electra, plain": lambda: transformers.ElectraConfig(**SIZES, embedding_size=24),
    "electra, nothing smaller": lambda: transformers.ElectraConfig(**SIZES, embedding_size=32),
    "electra, another activation": lambda: transformers.ElectraConfig(
        **SIZES, embedding_size=24, hidden_act="relu", layer_norm_eps=1e-3
    ),
    "mpnet, plain": lambda: transformers.MPNetConfig(**SIZES),
    "mpnet, another activation": lambda: transformers.MPNetConfig(**SIZES, hidden_act="relu"),
    "mpnet, another epsilon": lambda: transformers.MPNetConfig(**SIZES, layer_norm_eps=1e-3, pad_token_id=0),
    "deberta-v2, as v3": deberta,
    "deberta-v2, tables of their own": lambda: deberta(
        share_att_key=False, norm_rel_ebd="none", type_vocab_size=2, position_biased_input=True
    ),
    "deberta-v2, distances one by one": lambda: deberta(
        position_buckets=-1, max_relative_positions=40, pos_att_type="c2p", share_att_key=False
    ),
    "deberta-v2, asked by distances only": lambda: deberta(pos_att_type=["p2c"], share_att_key=False),
    "deberta-v2, absolute": lambda: deberta(
        relative_attention=False, norm_rel_ebd="none", position_biased_input=True, hidden_act="relu"
    ),
    "deberta-v2, its own masked-LM head": lambda: deberta(legacy=False, pooler_hidden_act="tanh"),
    "modernbert, plain": modernbert,
    "modernbert, biases everywhere": lambda: modernbert(
        attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True, classifier_pooling="mean"
    ),
    "modernbert, no bias, other activations": lambda: modernbert(
        decoder_bias=False, hidden_activation="silu", classifier_activation="relu", norm_eps=1e-3
    ),
    "modernbert, other layers, scaled": lambda: modernbert(
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": LLAMA3, "sliding_attention": LINEAR},
    ),
    "nomic_bert, plain": lambda: transformers.NomicBertConfig(**SIZES),
    "nomic_bert, heads of their own size": lambda: transformers.NomicBertConfig(
        **SIZES, head_dim=12, hidden_act="gelu", type_vocab_size=1
    ),
    "nomic_bert, scaled": lambda: transformers.NomicBertConfig(
        **SIZES, rope_parameters=YARN, layer_norm_eps=1e-3
    ),
}

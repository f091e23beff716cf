"""Files of the hub as their authors published them are read as transformers reads them today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers

from models.config import DecoderConfig, EncoderConfig
from models.decoder import Decoder
from models.encoder import Encoder
from models.errors import UnsupportedModel
from models.families.registry import read

BERT: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
}
# As Google's own files have it, of whose pooler nobody ever read more than that it is there.
POOLER = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
ROBERTA = {
    **BERT,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
DISTILBERT = {
    "activation": "gelu",
    "attention_dropout": 0.1,
    "dim": 768,
    "dropout": 0.1,
    "hidden_dim": 3072,
    "initializer_range": 0.02,
    "max_position_embeddings": 512,
    "model_type": "distilbert",
    "n_heads": 12,
    "n_layers": 6,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "vocab_size": 30522,
}
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "google-bert/bert-base-uncased": {
        **BERT,
        "architectures": ["BertForMaskedLM"],
        "gradient_checkpointing": False,
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0",
        "use_cache": True,
        "vocab_size": 30522,
    },
    "google-bert/bert-base-chinese": {
        **BERT,
        **POOLER,
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": 21128,
    },
    "everything that transformers 2 wrote": {
        **BERT,
        "bos_token_id": None,
        "do_sample": False,
        "eos_token_ids": 0,
        "finetuning_task": None,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "is_decoder": False,
        "is_encoder_decoder": False,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "length_penalty": 1.0,
        "max_length": 20,
        "model_type": "bert",
        "num_beams": 1,
        "num_labels": 2,
        "num_return_sequences": 1,
        "output_attentions": False,
        "output_hidden_states": False,
        "output_past": True,
        "pruned_heads": {},
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "torchscript": False,
        "use_bfloat16": False,
        "vocab_size": 30522,
        "xla_device": True,
    },
    "deepset/roberta-base-squad2": {
        **ROBERTA,
        "architectures": ["RobertaForQuestionAnswering"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "gradient_checkpointing": False,
        "language": "english",
        "model_type": "roberta",
        "name": "Roberta",
        "vocab_size": 50265,
    },
    "FacebookAI/xlm-roberta-base": {
        **ROBERTA,
        "architectures": ["XLMRobertaForMaskedLM"],
        "model_type": "xlm-roberta",
        "output_past": True,
        "position_embedding_type": "absolute",
        "vocab_size": 250002,
    },
    "almanach/camembert-base": {
        **ROBERTA,
        "model_type": "camembert",
        "output_past": True,
        "vocab_size": 32005,
    },
    "distilbert/distilbert-base-uncased": {**DISTILBERT, "architectures": ["DistilBertForMaskedLM"]},
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": {
        **DISTILBERT,
        "architectures": ["DistilBertForSequenceClassification"],
        "finetuning_task": "sst-2",
        "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
        "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
        "output_past": True,
    },
    "albert/albert-base-v2": {
        **BERT,
        "classifier_dropout_prob": 0.1,
        "down_scale_factor": 1,
        "embedding_size": 128,
        "gap_size": 0,
        "hidden_act": "gelu_new",
        "inner_group_num": 1,
        "model_type": "albert",
        "net_structure_type": 0,
        "num_hidden_groups": 1,
        "num_memory_blocks": 0,
        "vocab_size": 30000,
    },
    "google/electra-small-discriminator": {
        **BERT,
        "architectures": ["ElectraForPreTraining"],
        "embedding_size": 128,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "model_type": "electra",
        "num_attention_heads": 4,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "summary_type": "first",
        "summary_use_proj": True,
        "vocab_size": 30522,
    },
    "microsoft/mpnet-base": {
        **{key: value for key, value in ROBERTA.items() if key != "type_vocab_size"},
        "model_type": "mpnet",
        "relative_attention_num_buckets": 32,
        "vocab_size": 30527,
    },
    "microsoft/deberta-v3-base": {
        **BERT,
        "layer_norm_eps": 1e-7,
        "max_relative_positions": -1,
        "model_type": "deberta-v2",
        "norm_rel_ebd": "layer_norm",
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "position_buckets": 256,
        "relative_attention": True,
        "share_att_key": True,
        "type_vocab_size": 0,
        "vocab_size": 128100,
    },
    "answerdotai/ModernBERT-base": {
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": False,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_pooling": "mean",
        "cls_token_id": 50281,
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": 768,
        "initializer_cutoff_factor": 2.0,
        "intermediate_size": 1152,
        "layer_norm_eps": 1e-05,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-05,
        "num_attention_heads": 12,
        "num_hidden_layers": 22,
        "pad_token_id": 50283,
        "position_embedding_type": "absolute",
        "reference_compile": True,
        "repad_logits_with_grad": False,
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "vocab_size": 50368,
    },
}
DECODERS: Mapping[str, Mapping[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 576,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        "vocab_size": 49152,
    },
    "Qwen/Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
}


def theirs(auto: Any, raw: Mapping[str, Any]) -> Any:
    """Transformers' model of a file, without weights."""
    config = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(json.loads(json.dumps(raw)))
    with torch.device("meta"):
        return auto.from_config(config)


def size(model: torch.nn.Module) -> int:
    """Parameters but those of a pooler: ours is part of the heads that use it."""
    return sum(one.numel() for name, one in model.named_parameters() if not name.startswith("pooler"))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_published_encoder_is_as_large_as_transformers_makes_it(name: str) -> None:
    _, config = read(ENCODERS[name])
    assert isinstance(config, EncoderConfig)
    with torch.device("meta"):
        ours = Encoder(config)
    assert size(ours) == size(theirs(transformers.AutoModel, ENCODERS[name]))


@pytest.mark.parametrize("name", DECODERS)
def test_a_published_decoder_is_as_large_as_transformers_makes_it(name: str) -> None:
    _, config = read(DECODERS[name])
    assert isinstance(config, DecoderConfig)
    with torch.device("meta"):
        ours = Decoder(config)
    assert size(ours) == size(theirs(transformers.AutoModelForCausalLM, DECODERS[name]))


@pytest.mark.parametrize(
    ("key", "value"), [("is_decoder", True), ("pruned_heads", {"0": [1]}), ("directionality", "ltr")]
)
def test_what_goes_without_saying_may_be_said_but_not_contradicted(key: str, value: object) -> None:
    raw = ENCODERS["google-bert/bert-base-chinese"]
    with pytest.raises(UnsupportedModel, match=f"`{key}`"):
        read({**raw, key: value})

"""Encoder-decoders of the hub as their authors published them are read as transformers reads them today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers

from models.config import Head, Residual, Seq2SeqConfig
from models.errors import UnsupportedModel
from models.families.registry import read
from models.positions import Learned, Sinusoidal
from models.seq2seq import Seq2Seq

LABELS = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_kv": 64,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
}
BART = {
    **LABELS,
    "activation_dropout": 0.0,
    "add_bias_logits": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 1024,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 12,
    "dropout": 0.1,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 12,
    "eos_token_id": 2,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "num_hidden_layers": 12,
    "output_past": True,
    "pad_token_id": 1,
}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "google-t5/t5-small": {
        **T5,
        "d_ff": 2048,
        "d_model": 512,
        "model_type": "t5",
        "n_positions": 512,
        "num_heads": 8,
        "num_layers": 6,
        "task_specific_params": {"translation_en_to_de": {"max_length": 300, "num_beams": 4}},
        "vocab_size": 32128,
    },
    "google/flan-t5-base": {
        **T5,
        "d_ff": 2048,
        "d_model": 768,
        "feed_forward_proj": "gated-gelu",
        "model_type": "t5",
        "n_positions": 512,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "num_layers": 12,
        "relative_attention_max_distance": 128,
        "task_specific_params": {"summarization": {"max_length": 200, "prefix": "summarize: "}},
        "tie_word_embeddings": False,
        "transformers_version": "4.23.1",
        "use_cache": True,
        "vocab_size": 32128,
    },
    "google/mt5-small": {
        **T5,
        "architectures": ["MT5ForConditionalGeneration"],
        "d_ff": 1024,
        "d_model": 512,
        "feed_forward_proj": "gated-gelu",
        "model_type": "mt5",
        "num_decoder_layers": 8,
        "num_heads": 6,
        "num_layers": 8,
        "tie_word_embeddings": False,
        "tokenizer_class": "T5Tokenizer",
        "vocab_size": 250112,
    },
    "facebook/bart-large-cnn": {
        **BART,
        "_num_labels": 3,
        "activation_function": "gelu",
        "add_final_layer_norm": False,
        "architectures": ["BartForConditionalGeneration"],
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "force_bos_token_to_be_generated": True,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "length_penalty": 2.0,
        "max_length": 142,
        "min_length": 56,
        "model_type": "bart",
        "no_repeat_ngram_size": 3,
        "normalize_before": False,
        "num_beams": 4,
        "prefix": " ",
        "scale_embedding": False,
        "static_position_embeddings": False,
        "vocab_size": 50264,
    },
    "facebook/bart-base": {
        **BART,
        "activation_function": "gelu",
        "architectures": ["BartModel"],
        "d_model": 768,
        "decoder_attention_heads": 12,
        "decoder_ffn_dim": 3072,
        "decoder_layers": 6,
        "decoder_start_token_id": 2,
        "encoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "encoder_layers": 6,
        "model_type": "bart",
        "normalize_before": False,
        "normalize_embedding": True,
        "num_hidden_layers": 6,
        "scale_embedding": False,
        "vocab_size": 50265,
    },
    "facebook/mbart-large-50-many-to-many-mmt": {
        **BART,
        "activation_function": "relu",
        "add_final_layer_norm": True,
        "architectures": ["MBartForConditionalGeneration"],
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "forced_eos_token_id": 2,
        "max_length": 200,
        "model_type": "mbart",
        "normalize_before": True,
        "normalize_embedding": True,
        "num_beams": 5,
        "scale_embedding": True,
        "static_position_embeddings": False,
        "tokenizer_class": "MBart50Tokenizer",
        "vocab_size": 250054,
    },
    "google/pegasus-large": {
        **BART,
        "activation_function": "relu",
        "add_final_layer_norm": True,
        "architectures": ["PegasusForConditionalGeneration"],
        "decoder_layers": 16,
        "decoder_start_token_id": 0,
        "encoder_layers": 16,
        "eos_token_id": 1,
        "extra_pos_embeddings": 1,
        "force_bos_token_to_be_generated": False,
        "forced_eos_token_id": 1,
        "length_penalty": 0.8,
        "max_length": 256,
        "model_type": "pegasus",
        "normalize_before": True,
        "normalize_embedding": False,
        "num_beams": 8,
        "num_hidden_layers": 16,
        "pad_token_id": 0,
        "scale_embedding": True,
        "static_position_embeddings": True,
        "task_specific_params": {"summarization_aeslc": {"max_position_embeddings": 512}},
        "vocab_size": 96103,
    },
    "Helsinki-NLP/opus-mt-en-de": {
        **BART,
        "activation_function": "swish",
        "add_final_layer_norm": False,
        "architectures": ["MarianMTModel"],
        "bad_words_ids": [[58100]],
        "d_model": 512,
        "decoder_attention_heads": 8,
        "decoder_ffn_dim": 2048,
        "decoder_layers": 6,
        "decoder_start_token_id": 58100,
        "decoder_vocab_size": 58101,
        "encoder_attention_heads": 8,
        "encoder_ffn_dim": 2048,
        "encoder_layers": 6,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "max_length": 512,
        "max_position_embeddings": 512,
        "model_type": "marian",
        "normalize_before": False,
        "normalize_embedding": False,
        "num_beams": 6,
        "num_hidden_layers": 6,
        "pad_token_id": 58100,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
        "vocab_size": 58101,
    },
    "facebook/nllb-200-distilled-600M": {
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["M2M100ForConditionalGeneration"],
        "attention_dropout": 0.1,
        "bos_token_id": 0,
        "d_model": 1024,
        "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096,
        "decoder_layerdrop": 0,
        "decoder_layers": 12,
        "decoder_start_token_id": 2,
        "dropout": 0.1,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "encoder_layerdrop": 0,
        "encoder_layers": 12,
        "eos_token_id": 2,
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "max_length": 200,
        "max_position_embeddings": 1024,
        "model_type": "m2m_100",
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "scale_embedding": True,
        "tokenizer_class": "NllbTokenizer",
        "use_cache": True,
        "vocab_size": 256206,
    },
}


def seq2seq_config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    _, config = read(raw)
    assert isinstance(config, Seq2SeqConfig)
    return config


def sizes(model: torch.nn.Module) -> int:
    """Of what is learnt; tables of sines are not, and transformers has the bias on the logits as a buffer."""
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_gives_a_model_of_the_size_that_transformers_makes_of_it(name: str) -> None:
    raw = PUBLISHED[name]
    config = seq2seq_config(raw)
    with torch.device("meta"):
        ours = sizes(Seq2Seq(config))
        kind = transformers.CONFIG_MAPPING[raw["model_type"]]
        theirs = transformers.AutoModelForSeq2SeqLM.from_config(kind.from_dict(json.loads(json.dumps(raw))))
    bias = config.vocab_size if config.logit_bias else 0
    own_head = config.vocab_size * config.decoder.hidden_size if config.decoder.head is Head.UNTIED else 0
    assert ours - bias - own_head == sizes(theirs)


def test_an_answer_begins_with_the_token_that_the_file_names_or_means() -> None:
    starts = {name: seq2seq_config(raw).start for name, raw in PUBLISHED.items()}
    assert starts == {name: raw["decoder_start_token_id"] for name, raw in PUBLISHED.items()}
    unsaid = {
        name: seq2seq_config(
            {key: value for key, value in raw.items() if key != "decoder_start_token_id"}
        ).start
        for name, raw in PUBLISHED.items()
        if raw["model_type"] != "mbart"
    }
    assert unsaid == {name: starts[name] for name in unsaid}


def test_a_file_that_does_not_say_what_answers_begin_with_is_refused() -> None:
    """mBART's answers begin with the code of their language."""
    raw = dict(PUBLISHED["facebook/mbart-large-50-many-to-many-mmt"])
    del raw["decoder_start_token_id"]
    with pytest.raises(UnsupportedModel, match="decoder_start_token_id"):
        read(raw)


def test_logits_are_scaled_where_t5s_head_was_tied_in_training() -> None:
    names = ("google-t5/t5-small", "google/flan-t5-base", "google/mt5-small")
    assert [seq2seq_config(PUBLISHED[name]).decoder.logit_scale for name in names] == [512**-0.5, 1.0, 1.0]


def test_t5_takes_as_long_a_text_as_it_was_trained_on_or_says() -> None:
    small = PUBLISHED["google-t5/t5-small"]
    longer = [seq2seq_config({**small, "n_positions": size}) for size in (None, 64, 2048)]
    assert [config.context_length for config in longer] == [512, 512, 2048]
    assert [config.encoder.context_length for config in longer] == [512, 512, 2048]


def test_barts_relatives_are_wired_in_their_own_ways() -> None:
    names = {
        "facebook/bart-large-cnn": (Residual.POST, Learned(rows=1026, offset=2)),
        "facebook/mbart-large-50-many-to-many-mmt": (Residual.PRE, Learned(rows=1026, offset=2)),
        "google/pegasus-large": (Residual.PRE, Sinusoidal()),
        "Helsinki-NLP/opus-mt-en-de": (Residual.POST, Sinusoidal()),
        "facebook/nllb-200-distilled-600M": (Residual.PRE, Sinusoidal(offset=2, inclusive=True)),
    }
    for name, wiring in names.items():
        config = seq2seq_config(PUBLISHED[name])
        assert (config.decoder.residual, config.decoder.positions) == wiring
        assert (config.encoder.residual, config.encoder.positions) == wiring


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("facebook/bart-base", {"normalize_before": True}, "normalize_before"),
        ("facebook/bart-base", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("facebook/bart-base", {"architectures": ["BartForSequenceClassification"]}, "BartForSequence"),
        ("google-t5/t5-small", {"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ("google-t5/t5-small", {"feed_forward_proj": "gated-"}, "feed_forward_proj"),
        ("google-t5/t5-small", {"relative_attention_max_distance": 16}, "relative_attention_max_distance"),
        ("google-t5/t5-small", {"is_encoder_decoder": False}, "is_encoder_decoder"),
        ("Helsinki-NLP/opus-mt-en-de", {"decoder_vocab_size": 99}, "decoder_vocab_size"),
        ("Helsinki-NLP/opus-mt-en-de", {"d_model": 500}, "d_model"),
        ("facebook/nllb-200-distilled-600M", {"num_experts": 8}, "num_experts"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(name: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        read({**PUBLISHED[name], **changes})


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("google-t5/t5-small", {"decoder_start_token_id": 40_000}, "begin with token 40000; there are 32128"),
        (
            "Helsinki-NLP/opus-mt-en-de",
            {"d_model": 501, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
            "cannot share 501 elements",
        ),
    ],
)
def test_sizes_that_contradict_each_other_are_told(name: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedModel, match=told):
        read({**PUBLISHED[name], **changes})

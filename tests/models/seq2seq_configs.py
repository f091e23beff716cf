"""Tiny configurations in which, together, every optional field of the encoder-decoders is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

T5: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 256,
    "decoder_start_token_id": 2,
}
MARIAN: dict[str, Any] = {**BART, "pad_token_id": 96, "decoder_start_token_id": 96}
UNEVEN: dict[str, Any] = {
    "encoder_layers": 1,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 56,
}
# T5's buckets in their logarithmic half, and a distance beyond them, within short texts.
BUCKETS: dict[str, Any] = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}


def t5(**fields: Any) -> Callable[[], Any]:
    return lambda: transformers.T5Config(**T5 | fields)


def mt5(**fields: Any) -> Callable[[], Any]:
    return lambda: transformers.MT5Config(**T5 | fields)


def bart(**fields: Any) -> Callable[[], Any]:
    return lambda: transformers.BartConfig(**BART | fields)


def mbart(**fields: Any) -> Callable[[], Any]:
    return lambda: transformers.MBartConfig(**BART | fields)


def pegasus(**fields: Any) -> Callable[[], Any]:
    return lambda: transformers.PegasusConfig(**BART | fields)


def marian(**fields: Any) -> Callable[[], Any]:
    return lambda: transformers.MarianConfig(**MARIAN | fields)


def m2m(**fields: Any) -> Callable[[], Any]:
    return lambda: transformers.M2M100Config(**BART | fields)


CONFIGS: dict[str, Callable[[], Any]] = {
    "t5, plain": t5(),
    "t5, gated, logits not scaled": t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5, sizes of its own": t5(num_decoder_layers=3, d_kv=12, layer_norm_epsilon=1e-3, n_positions=64),
    "t5, narrow buckets, another gate": t5(feed_forward_proj="gated-silu", **BUCKETS),
    "t5, another activation": t5(feed_forward_proj="gelu", relative_attention_num_buckets=16),
    "mt5, plain": mt5(),
    "mt5, not gated": mt5(feed_forward_proj="relu", layer_norm_epsilon=1e-3),
    "mt5, sizes of its own": mt5(num_decoder_layers=1, d_kv=16, **BUCKETS),
    "bart, plain": bart(),
    "bart, embeddings scaled": bart(scale_embedding=True, activation_function="relu"),
    "bart, stacks unlike": bart(**UNEVEN, max_position_embeddings=200),
    "mbart, plain": mbart(),
    "mbart, embeddings scaled": mbart(scale_embedding=True, activation_function="relu"),
    "mbart, stacks unlike": mbart(**UNEVEN, max_position_embeddings=200, decoder_start_token_id=90),
    "pegasus, plain": pegasus(),
    "pegasus, embeddings scaled": pegasus(scale_embedding=True, activation_function="relu"),
    "pegasus, stacks unlike": pegasus(**UNEVEN, max_position_embeddings=200),
    "marian, plain": marian(),
    "marian, as OPUS-MT": marian(scale_embedding=True, activation_function="swish"),
    "marian, stacks unlike": marian(**UNEVEN, max_position_embeddings=200),
    "marian, two vocabularies": marian(share_encoder_decoder_embeddings=False, decoder_vocab_size=101),
    "marian, two vocabularies and a head": marian(
        share_encoder_decoder_embeddings=False, decoder_vocab_size=101, tie_word_embeddings=False
    ),
    "m2m_100, plain": m2m(),
    "m2m_100, embeddings not scaled": m2m(scale_embedding=False, activation_function="gelu"),
    "m2m_100, stacks unlike": m2m(**UNEVEN, max_position_embeddings=200),
    "m2m_100, another padding": m2m(pad_token_id=0),
}

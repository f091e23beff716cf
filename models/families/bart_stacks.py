"""Reads what BART and its relatives have alike: two stacks that differ in sizes, wired in one way."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from models.config import Bias, DecoderConfig, EncoderConfig, Head, Mlp, Norm, Residual, Seq2SeqConfig
from models.families.reading import ACTIVATIONS, choice, divided, flag, only_heads, refuse, whole
from models.positions import Learned, Sinusoidal

ONLY = {"is_encoder_decoder": True, "is_decoder": False, "quantization_config": None}
BIASES = frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP})


def stacks(
    raw: Mapping[str, Any],
    name: str,
    *,
    positions: Learned | Sinusoidal,
    residual: Residual,
    embedding_norm: bool,
    final_norm: bool,
    start: int | None = None,
    activation: str = "gelu",
    scaled: bool = False,
) -> Seq2SeqConfig:
    """With tied and shared tables, and a bias on the logits. `start` of answers, `activation`, and whether
    embeddings are `scaled`: where nothing is stated."""
    only_heads(raw, "ForConditionalGeneration", "BartModel", "MTModel")
    refuse(raw, ONLY | _flags(positions, residual, embedding_norm, final_norm))
    wiring = {"residual": residual, "embedding_norm": embedding_norm, "final_norm": final_norm}
    stack = {"architecture": name, "positions": positions, **wiring, **_stack(raw, activation, scaled)}
    encoder = EncoderConfig(**_sizes(raw, "encoder"), **stack)
    heads, head_dim = (
        whole(raw, "decoder_attention_heads"),
        divided(raw, "d_model", "decoder_attention_heads"),
    )
    own: dict[str, Any] = {"kv_heads": heads, "head_dim": head_dim, "head": Head.TIED, "cross": True}
    decoder = DecoderConfig(**own, **_sizes(raw, "decoder"), **stack)
    first = whole(raw, "decoder_start_token_id", start, least=0)
    return Seq2SeqConfig(encoder=encoder, decoder=decoder, shared=True, start=first, logit_bias=True)


def _stack(raw: Mapping[str, Any], activation: str, scaled: bool) -> dict[str, Any]:
    """What encoder and decoder have alike."""
    hidden_size = whole(raw, "d_model")
    return {
        "vocab_size": whole(raw, "vocab_size"),
        "hidden_size": hidden_size,
        "context_length": whole(raw, "max_position_embeddings"),
        "norm": Norm.LAYER,
        "norm_eps": 1e-5,
        "mlp": Mlp.PLAIN,
        "activation": choice(raw, "activation_function", ACTIVATIONS, activation),
        "biases": BIASES,
        "embedding_scale": sqrt(hidden_size) if flag(raw, "scale_embedding", scaled) else 1.0,
    }


def _sizes(raw: Mapping[str, Any], stack: str) -> dict[str, Any]:
    """What each has for itself."""
    divided(raw, "d_model", f"{stack}_attention_heads")
    keys = {"layers": "layers", "heads": "attention_heads", "mlp_size": "ffn_dim"}
    return {ours: whole(raw, f"{stack}_{theirs}") for ours, theirs in keys.items()}


def _flags(positions: object, residual: Residual, embedding_norm: bool, final_norm: bool) -> dict[str, Any]:
    """How older files say what newer ones leave to the family."""
    return {
        "add_final_layer_norm": final_norm,
        "do_blenderbot_90_layernorm": False,
        "normalize_before": residual is Residual.PRE,
        "normalize_embedding": embedding_norm,
        "static_position_embeddings": isinstance(positions, Sinusoidal),
    }

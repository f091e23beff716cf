"""T5 (Raffel et al. 2019, arXiv 1910.10683), T5 v1.1, Flan-T5.

Whether the head has a table of its own, only the checkpoint tells: see `t5_names.NAMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import DecoderConfig, EncoderConfig, Head, Mlp, Norm, Residual, Seq2SeqConfig
from models.families.naming import Family
from models.families.reading import ACTIVATIONS, choice, flag, number, only_heads, refuse, whole
from models.families.t5_names import COPIES, NAMES, NEVER_USED
from models.positions import Relative

ONLY = {"is_encoder_decoder": True, "is_decoder": False, "quantization_config": None}
PROJECTIONS = {name: (False, name) for name in ACTIVATIONS}
PROJECTIONS |= {f"gated-{name}": (True, name) for name in ACTIVATIONS} | {"gated-gelu": (True, "gelu_new")}
LONGEST = 512  # distances have no end, and few files state one: T5 was trained up to here


def config(raw: Mapping[str, Any], name: str = "t5", projection: str = "relu") -> Seq2SeqConfig:
    only_heads(raw, "T5ForConditionalGeneration", "T5WithLMHeadModel")
    refuse(raw, ONLY)
    stack, relative = _stack(raw, name, projection), _relative(raw)
    layers = whole(raw, "num_layers")
    scaled = flag(raw, "scale_decoder_outputs", flag(raw, "tie_word_embeddings", True), null=False)
    decoder = DecoderConfig(
        layers=whole(raw, "num_decoder_layers", layers),
        kv_heads=whole(raw, "num_heads"),
        positions=relative,
        head=Head.UNTIED,
        logit_scale=whole(raw, "d_model") ** -0.5 if scaled else 1.0,
        cross=True,
        **stack,
    )
    encoder = EncoderConfig(layers=layers, positions=None, relative=relative, **stack)
    start = whole(raw, "decoder_start_token_id", raw.get("pad_token_id"), least=0)
    return Seq2SeqConfig(encoder=encoder, decoder=decoder, shared=True, start=start)


def _stack(raw: Mapping[str, Any], name: str, projection: str) -> dict[str, Any]:
    """What encoder and decoder have alike. Newer files also state what follows from `feed_forward_proj`;
    where they state something else, that holds."""
    gated, activation = choice(raw, "feed_forward_proj", PROJECTIONS, projection)
    return {
        "architecture": name,
        "vocab_size": whole(raw, "vocab_size"),
        "hidden_size": whole(raw, "d_model"),
        "heads": whole(raw, "num_heads"),
        "head_dim": whole(raw, "d_kv"),
        "mlp_size": whole(raw, "d_ff"),
        "context_length": max(whole(raw, "n_positions", LONGEST), LONGEST),
        "norm": Norm.RMS,
        "norm_eps": number(raw, "layer_norm_epsilon", 1e-6),
        "mlp": Mlp.GATED if flag(raw, "is_gated_act", gated, null=False) else Mlp.PLAIN,
        "activation": choice(raw, "dense_act_fn", ACTIVATIONS, activation),
        "residual": Residual.PRE,
        "biases": frozenset(),
        "embedding_norm": False,
        "final_norm": True,
        "scale": 1.0,
    }


def _relative(raw: Mapping[str, Any]) -> Relative:
    buckets = whole(raw, "relative_attention_num_buckets", 32, least=4)
    distance = whole(raw, "relative_attention_max_distance", 128, least=buckets // 2 + 1)
    return Relative(buckets=buckets, max_distance=distance)


FAMILY = Family(
    config=config,
    names=NAMES,
    copies=COPIES,
    ignored=NEVER_USED,
    neutral=frozenset({"dropout_rate", "output_past"}),
    head="lm_head.weight",
)

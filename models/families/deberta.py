"""DeBERTa v2 and v3 (He et al. 2020, 2021, arXiv 2006.03654, 2111.09543): content and distance apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import EncoderConfig
from models.errors import UnsupportedModel
from models.families import bert, encoder_heads
from models.families.naming import Either, Family, Names
from models.families.reading import ACTIVATIONS, choice, flag, number, refuse, whole, words
from models.positions import Disentangled, Learned


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    plain, terms = bert.config(raw), words(raw, "pos_att_type", {"c2p", "p2c"})
    refuse(raw, {"embedding_size": plain.hidden_size, "pooler_hidden_size": plain.hidden_size})
    refuse(raw, {"attention_head_size": plain.head_size, "conv_kernel_size": 0})
    relative = _relative(raw, terms, plain.context_length)
    return replace(
        plain,
        norm_eps=number(raw, "layer_norm_eps", 1e-7),
        positions=Learned(rows=plain.context_length) if flag(raw, "position_biased_input", True) else None,
        relative=relative if flag(raw, "relative_attention", False) else None,
        scale=(plain.head_size * (1 + len(terms))) ** -0.5,
        segments=whole(raw, "type_vocab_size", 0, least=0),
        tasks=encoder_heads.heads(
            plain.activation, pooled=choice(raw, "pooler_hidden_act", ACTIVATIONS, "gelu")
        ),
    )


def _relative(raw: Mapping[str, Any], terms: frozenset[str], context: int) -> Disentangled:
    """UnsupportedModel where the distances contradict each other, or nobody looks at them."""
    buckets = whole(raw, "position_buckets", -1, least=-1)
    most = whole(raw, "max_relative_positions", -1, least=-1)
    relative = Disentangled(
        buckets=buckets if buckets > 0 else None,
        max_distance=most if most > 0 else context,
        shared=flag(raw, "share_att_key", False),
        content_to_position="c2p" in terms,
        position_to_content="p2c" in terms,
        norm="layer_norm" in words(raw, "norm_rel_ebd", {"none", "layer_norm"}),
    )
    if flag(raw, "relative_attention", False) and not terms:
        raise UnsupportedModel("`pos_att_type` is empty; with `relative_attention`, c2p or p2c is needed")
    if not flag(raw, "relative_attention", False) and relative.norm:
        raise UnsupportedModel("`norm_rel_ebd` is layer_norm, but there is no `relative_attention`")
    if relative.buckets is not None and not 1 < relative.buckets // 2 < relative.max_distance - 1:
        raise UnsupportedModel(
            f"`position_buckets` {buckets} and `max_relative_positions` {relative.max_distance}: half of the "
            "buckets must be more than 1 and less than the largest distance"
        )
    return relative


_SELF = "encoder.layer.{}.attention.self"
BODY: Names = {
    **bert.BODY,
    "sights.distances.vectors": "encoder.rel_embeddings",
    "sights.distances.norm": "encoder.LayerNorm",
    "blocks.{}.attention.qkv": tuple(f"{_SELF}.{part}_proj" for part in ("query", "key", "value")),
    "blocks.{}.attention.distance_key": f"{_SELF}.pos_key_proj",
    "blocks.{}.attention.distance_query": f"{_SELF}.pos_query_proj",
}
MASKED_LM: Names = {
    name: Either((old, f"lm_predictions.lm_head.{new}"))
    for (name, old), new in zip(bert.MASKED_LM.items(), ("dense", "LayerNorm", "bias"), strict=True)
}

FAMILY = Family(
    config=config,
    prefix="deberta.",
    names=BODY,
    heads=encoder_heads.names(MASKED_LM, pooled="pooler.dense"),
    head="cls.predictions.decoder.weight",
    ignored=(*bert.BUFFERS, "cls.predictions.decoder.bias", "mask_predictions.*"),
    # What a head's tensors are called, which they say themselves; and of a convolution that is not there.
    neutral=frozenset({"conv_act", "conv_groups", "legacy"}),
)

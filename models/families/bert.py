"""BERT (Devlin et al. 2018, arXiv 1810.04805), and sentence encoders built on it: MiniLM, BGE, E5, GTE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import EncoderConfig
from models.families import encoder_heads
from models.families.naming import Either, Family, Names
from models.families.reading import ACTIVATIONS, choice, divided, number, refuse, whole
from models.positions import Learned

ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "quantization_config": None,
}


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, ONLY)
    rows, activation = whole(raw, "max_position_embeddings"), choice(raw, "hidden_act", ACTIVATIONS, "gelu")
    return EncoderConfig(
        architecture=raw["model_type"],
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=whole(raw, "hidden_size"),
        layers=whole(raw, "num_hidden_layers"),
        heads=whole(raw, "num_attention_heads"),
        head_dim=divided(raw, "hidden_size", "num_attention_heads"),
        mlp_size=whole(raw, "intermediate_size"),
        context_length=rows,
        norm_eps=number(raw, "layer_norm_eps", 1e-12),
        activation=activation,
        positions=Learned(rows=rows),
        segments=whole(raw, "type_vocab_size", 2, least=0),
        tasks=encoder_heads.heads(activation),
    )


BODY: Names = {
    "embeddings.words": "embeddings.word_embeddings",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.segments": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "blocks.{}.attention.qkv": (
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
    ),
    "blocks.{}.attention.out": "encoder.layer.{}.attention.output.dense",
    "blocks.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "blocks.{}.mlp.up": "encoder.layer.{}.intermediate.dense",
    "blocks.{}.mlp.down": "encoder.layer.{}.output.dense",
    "blocks.{}.mlp_norm": "encoder.layer.{}.output.LayerNorm",
}
BUFFERS = ("embeddings.position_ids", "pooler.*")  # a pooler is for classifiers
MASKED_LM: Names = {
    "head.transform": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head.bias": Either(("cls.predictions.bias", "cls.predictions.decoder.bias")),
}

FAMILY = Family(
    config=config,
    prefix="bert.",
    names=BODY,
    heads=encoder_heads.names(MASKED_LM, pooled="pooler.dense"),
    head="cls.predictions.decoder.weight",
    ignored=(*BUFFERS, "cls.seq_relationship.*", "cls.predictions.decoder.bias"),
    neutral=frozenset(  # of a pooler that never was
        {
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        }
    ),
    suffixes={".gamma": ".weight", ".beta": ".bias"},
)

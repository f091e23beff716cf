"""OPT (Zhang et al. 2022, arXiv 2205.01068), GPT-3's open shape; Galactica (arXiv 2211.09085)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.config import Bias, DecoderConfig, Head, Mlp, Norm, Residual
from models.families.naming import Family
from models.families.reading import ACTIVATIONS, choice, divided, flag, refuse, whole
from models.positions import Learned

ONLY = {
    "learned_embeddings": True,
    "output_projection": True,
    "scale_embeddings": False,
    "quantization_config": None,
}


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    refuse(raw, ONLY)
    hidden_size, context_length = whole(raw, "hidden_size"), whole(raw, "max_position_embeddings")
    embedding_size = whole(raw, "word_embed_proj_dim", hidden_size)
    before, removed = flag(raw, "do_layer_norm_before", True), flag(raw, "_remove_final_layer_norm", False)
    biases = {Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP} if flag(raw, "enable_bias", True) else set()
    return DecoderConfig(
        architecture="opt",
        vocab_size=whole(raw, "vocab_size"),
        hidden_size=hidden_size,
        layers=whole(raw, "num_hidden_layers"),
        heads=whole(raw, "num_attention_heads"),
        kv_heads=whole(raw, "num_attention_heads"),
        head_dim=divided(raw, "hidden_size", "num_attention_heads"),
        mlp_size=whole(raw, "ffn_dim"),
        context_length=context_length,
        norm=Norm.LAYER if flag(raw, "layer_norm_elementwise_affine", True) else Norm.LAYER_BARE,
        norm_eps=1e-5,
        mlp=Mlp.PLAIN,
        activation=choice(raw, "activation_function", ACTIVATIONS, "relu"),
        positions=Learned(rows=context_length + 2, offset=2),
        residual=Residual.PRE if before else Residual.POST,
        head=Head.TIED if flag(raw, "tie_word_embeddings", True) else Head.UNTIED,
        biases=frozenset(biases),
        embedding_size=None if embedding_size == hidden_size else embedding_size,
        final_norm=before and not removed,
    )


FAMILY = Family(
    config=config,
    prefix="model.",
    names={
        "embeddings.words": "decoder.embed_tokens",
        "embeddings.positions": "decoder.embed_positions",
        "embeddings.project": "decoder.project_in",
        "blocks.{}.attention_norm": "decoder.layers.{}.self_attn_layer_norm",
        "blocks.{}.attention.qkv": (
            "decoder.layers.{}.self_attn.q_proj",
            "decoder.layers.{}.self_attn.k_proj",
            "decoder.layers.{}.self_attn.v_proj",
        ),
        "blocks.{}.attention.out": "decoder.layers.{}.self_attn.out_proj",
        "blocks.{}.mlp_norm": "decoder.layers.{}.final_layer_norm",
        "blocks.{}.mlp.up": "decoder.layers.{}.fc1",
        "blocks.{}.mlp.down": "decoder.layers.{}.fc2",
        "norm": "decoder.final_layer_norm",
        "head.project": "decoder.project_out",
        "head.linear": "lm_head",
    },
    head="lm_head.weight",
    neutral=frozenset({"activation_dropout"}),
)

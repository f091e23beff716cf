"""NomicBERT (Nussbaum et al. 2024, arXiv 2402.01613): a BERT with rotary positions and gated MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import EncoderConfig, HeadTask, Mlp
from models.families import bert, encoder_heads
from models.families.naming import Either, Family, Names
from models.families.reading import ACTIVATIONS, choice, head_size, refuse
from models.families.rotary import rotary

# Of the files that came with code of their own.
ONLY = {
    "activation_function": "swiglu",
    "rotary_emb_fraction": 1.0,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    **dict.fromkeys(("causal", "mlp_fc1_bias", "mlp_fc2_bias", "parallel_block", "prenorm"), False),
    **dict.fromkeys(("qkv_proj_bias", "rotary_emb_interleaved", "use_rms_norm"), False),
}


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    refuse(raw, ONLY)
    activation, head_dim = choice(raw, "hidden_act", ACTIVATIONS, "silu"), head_size(raw)
    return replace(
        bert.config(raw),
        head_dim=head_dim,
        mlp=Mlp.GATED,
        activation=activation,
        biases=frozenset(),
        positions=rotary(raw, head_dim, theta=1000.0),
        tasks=encoder_heads.heads(activation),
    )


_OLD, _NEW = "encoder.layers.{}", "layers.{}"
BODY: Names = {
    "embeddings.words": "embeddings.word_embeddings",
    "embeddings.segments": "embeddings.token_type_embeddings",
    "embeddings.norm": Either(("embeddings.LayerNorm", "emb_ln")),
    "blocks.{}.attention.qkv": Either(
        (tuple(f"{_NEW}.self_attn.{part}_proj" for part in "qkv"), f"{_OLD}.attn.Wqkv")
    ),
    "blocks.{}.attention.out": Either((f"{_NEW}.self_attn.o_proj", f"{_OLD}.attn.out_proj")),
    "blocks.{}.attention_norm": Either((f"{_NEW}.post_attention_layernorm", f"{_OLD}.norm1")),
    "blocks.{}.mlp.gate_up": Either(
        ((f"{_NEW}.mlp.gate_proj", f"{_NEW}.mlp.up_proj"), (f"{_OLD}.mlp.fc12", f"{_OLD}.mlp.fc11"))
    ),
    "blocks.{}.mlp.down": Either((f"{_NEW}.mlp.down_proj", f"{_OLD}.mlp.fc2")),
    "blocks.{}.mlp_norm": Either((f"{_NEW}.post_mlp_layernorm", f"{_OLD}.norm2")),
}
MASKED_LM: Names = {**bert.MASKED_LM, "head.norm": "cls.predictions.transform.layer_norm"}
HEADS = encoder_heads.names(MASKED_LM, pooled="pooler.dense")

FAMILY = Family(
    config=config,
    prefix="nomic_bert.",
    names=BODY,
    heads={task: names for task, names in HEADS.items() if task is not HeadTask.SPAN},  # it has none
    head="cls.predictions.decoder.weight",
    ignored=(*bert.BUFFERS, "cls.predictions.decoder.bias"),
    keys={
        "layer_norm_epsilon": "layer_norm_eps",
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "n_positions": "max_position_embeddings",
        "rotary_emb_base": "rope_theta",
    },
    # Of such files: what others scale their positions by, and the norms of a block that is not there.
    neutral=frozenset({"dense_seq_output", "max_trained_positions", "parallel_block_tied_norm"}),
)

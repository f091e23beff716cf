"""The decoder families as GGUF files tell them: llama.cpp's metadata keys and tensor names.

https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py. What an architecture is built of
follows from its name; sizes are in the metadata, each under the architecture's own prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from models.config import Activation, Bias, DecoderConfig, Head, Local, Mlp, Norm, QueryKeyNorm
from models.errors import UnsupportedModel
from models.families.naming import Family, Layout, Names, Stored
from models.families.reading import number, refuse, whole
from models.positions import FactorScaling, Learned, LinearScaling, Rotary

# Facts that a GGUF file states through its tensors; so are some vocabulary sizes. `models.loading` adds them.
FACTS = "tensors."
HAS_HEAD = f"{FACTS}has_head"
ROPE_FACTORS = f"{FACTS}rope_factors"

WORDS, HEAD, FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"


# Without experts, causal, and scaled by `rope.scaling.factor`, if at all: `scale_linear` is its older name.
ONLY = {"expert_count": 0, "attention.causal": True, "rope.scale_linear": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a GGUF architecture is built of, beyond its sizes."""

    norm: Norm
    mlp: Mlp
    activation: Activation
    rotary: bool
    biases: frozenset[Bias] = frozenset()
    query_key_norm: QueryKeyNorm | None = None


LLAMA = Plan(norm=Norm.RMS, mlp=Mlp.GATED, activation=Activation.SILU, rotary=True)
PLANS = {
    "llama": LLAMA,
    "qwen2": replace(LLAMA, biases=frozenset({Bias.QKV})),
    "qwen3": replace(LLAMA, query_key_norm=QueryKeyNorm(norm=Norm.RMS)),
    "gpt2": Plan(
        norm=Norm.LAYER,
        mlp=Mlp.PLAIN,
        activation=Activation.GELU_TANH,
        rotary=False,
        biases=frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP}),
    ),
}


def config(architecture: str, raw: Mapping[str, Any]) -> DecoderConfig:
    """Raises UnsupportedModel naming the key that is missing or not implemented."""
    plan = PLANS[architecture]
    key = partial("{}.{}".format, architecture)
    heads, hidden_size = whole(raw, key("attention.head_count")), whole(raw, key("embedding_length"))
    head_dim = whole(raw, key("attention.key_length"), hidden_size // heads)
    refuse(
        raw, {key(name): value for name, value in ONLY.items()} | {key("attention.value_length"): head_dim}
    )
    context_length, layers = whole(raw, key("context_length")), whole(raw, key("block_count"))
    window = whole(raw, window_key) if (window_key := key("attention.sliding_window")) in raw else None
    norm_key = "attention.layer_norm_rms_epsilon" if plan.norm is Norm.RMS else "attention.layer_norm_epsilon"
    return DecoderConfig(
        architecture=architecture,
        vocab_size=whole(raw, key("vocab_size")),
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        kv_heads=whole(raw, key("attention.head_count_kv"), heads),
        head_dim=head_dim,
        mlp_size=whole(raw, key("feed_forward_length")),
        context_length=context_length,
        norm=plan.norm,
        norm_eps=number(raw, key(norm_key)),
        mlp=plan.mlp,
        activation=plan.activation,
        positions=_rotary(raw, key("rope"), head_dim) if plan.rotary else Learned(rows=context_length),
        head=Head.UNTIED if raw[HAS_HEAD] else Head.TIED,
        biases=plan.biases,
        query_key_norm=plan.query_key_norm,
        local=None if window is None else Local(layers=frozenset(range(layers)), window=window),
    )


def _rotary(raw: Mapping[str, Any], prefix: str, head_dim: int) -> Rotary:
    if raw.get(f"{prefix}.dimension_count", head_dim) != head_dim:
        raise UnsupportedModel(
            f"`{prefix}.dimension_count` is {raw[f'{prefix}.dimension_count']}, not {head_dim}"
        )
    theta = number(raw, f"{prefix}.freq_base", 10_000.0)
    if factors := raw.get(ROPE_FACTORS):
        return Rotary(theta=theta, scaling=FactorScaling(factors=tuple(factors)))
    kind = raw.get(f"{prefix}.scaling.type", "none")
    if kind == "none":
        return Rotary(theta=theta)
    if kind == "linear":
        return Rotary(theta=theta, scaling=LinearScaling(factor=number(raw, f"{prefix}.scaling.factor")))
    raise UnsupportedModel(f"`{prefix}.scaling.type` is {kind!r}; supported: none, linear")


def names(*, paired: bool = False) -> Names:
    """`paired`: the converter reordered query and key rows for llama.cpp's rotary layout."""
    layout = Layout.ROTARY_PAIRS if paired else Layout.OUT_IN
    return {
        "embeddings.words": "token_embd",
        "blocks.{}.attention_norm": "blk.{}.attn_norm",
        "blocks.{}.attention.qkv": (
            Stored("blk.{}.attn_q", layout),
            Stored("blk.{}.attn_k", layout),
            "blk.{}.attn_v",
        ),
        "blocks.{}.attention.query_norm": "blk.{}.attn_q_norm",
        "blocks.{}.attention.key_norm": "blk.{}.attn_k_norm",
        "blocks.{}.attention.out": "blk.{}.attn_output",
        "blocks.{}.mlp_norm": "blk.{}.ffn_norm",
        "blocks.{}.mlp.gate_up": ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
        "blocks.{}.mlp.down": "blk.{}.ffn_down",
        "norm": "output_norm",
        "head.linear": "output",
    }


GPT2_NAMES: Names = {
    **names(),
    "embeddings.positions": "position_embd",
    "blocks.{}.attention.qkv": "blk.{}.attn_qkv",
    "blocks.{}.mlp.up": "blk.{}.ffn_up",
}

# Of texts longer than the model was trained for, where scaling says how; and how the file came about.
NEUTRAL = (
    "expert_used_count",
    "pooling_type",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
)


def _family(architecture: str, names: Names) -> Family:
    return Family(
        config=partial(config, architecture),
        names=names,
        ignored=(FACTORS,),
        neutral=frozenset(f"{architecture}.{key}" for key in NEUTRAL),
    )


FAMILIES: Mapping[str, Family] = {
    "llama": _family("llama", names(paired=True)),
    "qwen2": _family("qwen2", names()),
    "qwen3": _family("qwen3", names()),
    "gpt2": _family("gpt2", GPT2_NAMES),
}

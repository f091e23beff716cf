"""StarCoder and SantaCoder (Li et al. 2023, arXiv 2305.06161): GPT-2 whose query heads share one key head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import DecoderConfig
from models.errors import UnsupportedModel
from models.families import gpt2
from models.families.naming import Family, Layout, Stored
from models.families.reading import flag, whole


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    plain = gpt2.config(raw)
    shared = flag(raw, "multi_query", True)
    kv_heads = 1 if shared else plain.heads
    if whole(raw, "num_key_value_heads", kv_heads) != kv_heads:
        raise UnsupportedModel(f"`num_key_value_heads` is not {kv_heads}, as `multi_query` {shared} says")
    return replace(plain, architecture="gpt_bigcode", kv_heads=kv_heads)


# How the reference runs, and in which precision it scales and sums; ours is float32.
RUNNING = {
    "attention_softmax_in_fp32",
    "inference_runner",
    "max_batch_size",
    "max_sequence_length",
    "pad_key_length",
    "pre_allocate_kv_cache",
    "scale_attention_softmax_in_fp32",
    "validate_runner_input",
}

FAMILY = Family(
    config=config,
    prefix="transformer.",
    names={
        **gpt2.NAMES,
        "blocks.{}.attention.qkv": Stored("h.{}.attn.c_attn", Layout.GROUPED_QKV),
        "blocks.{}.attention.out": "h.{}.attn.c_proj",
        "blocks.{}.mlp.up": "h.{}.mlp.c_fc",
        "blocks.{}.mlp.down": "h.{}.mlp.c_proj",
    },
    ignored=gpt2.MASKS,
    head="lm_head.weight",
    neutral=gpt2.NEUTRAL | RUNNING,
)

"""Phi-3 and Phi-4 (Abdin et al. 2024, arXiv 2404.14219, 2412.08905): a LLaMA, stored in stacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import DecoderConfig
from models.families import llama
from models.families.reading import head_size, number
from models.families.rotary import rotary
from models.families.windows import everywhere, window


def config(raw: Mapping[str, Any]) -> DecoderConfig:
    # Long contexts have a scaling of their own, "longrope", which is refused by its name.
    positions = rotary(raw, head_size(raw), partial=1.0, kinds=["default"])
    plain = llama.plain(raw, "phi3", positions=positions, norm_eps=1e-5)
    return replace(
        plain,
        norm_eps=number(raw, "rms_norm_eps", 1e-5),
        local=everywhere(plain.layers, window(raw, None)),
    )


FAMILY = replace(
    llama.FAMILY,
    config=config,
    names={
        **llama.NAMES,
        "blocks.{}.attention.qkv": "model.layers.{}.self_attn.qkv_proj",
        "blocks.{}.mlp.gate_up": "model.layers.{}.mlp.gate_up_proj",
    },
    neutral=frozenset({"original_max_position_embeddings"}),  # of the scaling that is refused
)

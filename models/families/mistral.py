"""Mistral (Jiang et al. 2023, arXiv 2310.06825): a LLaMA whose queries see the last `sliding_window` tokens.

Ministral: only some of its layers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import DecoderConfig
from models.families import llama
from models.families.windows import by_type, everywhere, window

WINDOW = 4096


def mistral(raw: Mapping[str, Any]) -> DecoderConfig:
    plain = llama.plain(raw, "mistral")
    return replace(plain, local=everywhere(plain.layers, window(raw, WINDOW)))


def ministral(raw: Mapping[str, Any]) -> DecoderConfig:
    plain, size = llama.plain(raw, "ministral"), window(raw, WINDOW)
    return replace(plain, local=by_type(raw, plain.layers, size, default=lambda _: size is not None))


MISTRAL = replace(llama.FAMILY, config=mistral)
MINISTRAL = replace(llama.FAMILY, config=ministral)

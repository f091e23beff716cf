"""Every family that is implemented, by the name that a configuration gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.families import bert, distilbert, gguf, gpt2, llama, qwen, roberta
from models.families.naming import Family
from models.families.reading import choice

FAMILIES: Mapping[str, Family] = {
    "bert": bert.FAMILY,
    "distilbert": distilbert.FAMILY,
    "gpt2": gpt2.FAMILY,
    "llama": llama.FAMILY,
    "mistral": llama.MISTRAL,
    "qwen2": qwen.QWEN2,
    "qwen3": qwen.QWEN3,
    "roberta": roberta.FAMILY,
}


def family_of(raw: Mapping[str, Any]) -> Family:
    """The family that a config.json (`model_type`) or GGUF metadata (`general.architecture`) names.

    Raises UnsupportedModel naming it and those that there are.
    """
    if "general.architecture" in raw:
        return choice(raw, "general.architecture", gguf.FAMILIES)
    return choice(raw, "model_type", FAMILIES)

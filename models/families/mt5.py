"""mT5 (Xue et al. 2020, arXiv 2010.11934): T5 v1.1 for many languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.config import Seq2SeqConfig
from models.families import t5


def config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    """Gated where nothing is stated; logits are never scaled."""
    found = t5.config(raw, "mt5", "gated-gelu")
    return replace(found, decoder=replace(found.decoder, logit_scale=1.0))


FAMILY = replace(t5.FAMILY, config=config)

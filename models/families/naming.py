"""How a family says where its weights come from. Data only: `models.loading` does what this describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from models.config import DecoderConfig, EncoderConfig


class Layout(Enum):
    """How a checkpoint stores a linear weight."""

    OUT_IN = "out_in"  # as torch does: [out, in]
    IN_OUT = "in_out"  # GPT-2's Conv1D: transpose it
    ROTARY_PAIRS = (
        "rotary_pairs"  # LLaMA in GGUF: rotated elements lie side by side; ours lie half a head apart
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the checkpoint that is not laid out as ours is."""

    name: str
    layout: Layout


Source = str | Stored | tuple[str | Stored, ...]  # a tuple: rows of one tensor, to be stacked in this order
Names = Mapping[str, Source]  # ours -> theirs; `{}` stands for the block's number


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that share an architecture: how to read their configuration, and what their tensors are called.

    Keys and values of `names` are modules (both sides then have `.weight` and maybe `.bias`) or, where
    they end in such a suffix themselves, tensors.
    """

    config: Callable[[Mapping[str, Any]], DecoderConfig | EncoderConfig]
    names: Names
    prefix: str = ""  # what some checkpoints of the family put before every name of the body
    ignored: tuple[
        str, ...
    ] = ()  # patterns (fnmatch) of tensors that hold nothing of ours: buffers, other heads
    head: str | None = None  # a language-model head of its own; a copy of the embeddings where it is tied
    suffixes: Mapping[str, str] = field(default_factory=dict)  # older spellings: {".gamma": ".weight"}

"""How a family says where its weights come from. Data only: `models.loading` does what this describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from models.config import Config, HeadTask


class Layout(Enum):
    """How a checkpoint stores a linear weight."""

    OUT_IN = "out_in"  # as torch does: [out, in]
    IN_OUT = "in_out"  # GPT-2's Conv1D: transpose it
    ROTARY_PAIRS = "rotary_pairs"  # turned elements lie side by side (GPT-J, GGUF); ours half a head apart
    HEADS_OF_ROTARY_PAIRS = "heads_of_rotary_pairs"  # the same of [heads, elements]: Cohere's norms
    GROUPED_QKV = "grouped_qkv"  # for each key head its queries, its key, its value (GPT-NeoX, BLOOM, Falcon)
    ROWS = "rows"  # a vector that is one row of ours: those whose number `*` stands for, in order


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the checkpoint that is not laid out as ours is."""

    name: str
    layout: Layout


@dataclass(frozen=True, slots=True)
class Either:
    """The first of these that the checkpoint has: spellings that changed, parts that only some have."""

    sources: tuple[Source, ...]


Source = str | Stored | Either | tuple[str | Stored, ...]  # a tuple: rows of one tensor, stacked in order
Names = Mapping[str, Source]  # ours -> theirs; `{}` stands for the block's number


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that share an architecture: how to read their configuration, and what their tensors are called.

    Keys and values of `names` are modules (both sides then have `.weight` and maybe `.bias`) or, where
    they end in such a suffix themselves, tensors.
    """

    config: Callable[[Mapping[str, Any]], Config]
    names: Names
    prefix: str = ""  # what some checkpoints of the family put before every name of the body
    ignored: tuple[str, ...] = ()  # patterns (fnmatch) of tensors that hold nothing of ours: buffers
    neutral: frozenset[str] = frozenset()  # configuration keys that cannot change a result: see `neutral.py`
    heads: Mapping[HeadTask, Names] = field(default_factory=dict)  # an encoder's, by what it is for
    head: str | None = None  # a language-model head of its own; a copy of the embeddings where it is tied
    copies: tuple[str, ...] = ()  # other tables that hold the embeddings once more, where stacks share them
    suffixes: Mapping[str, str] = field(default_factory=dict)  # older spellings: {".gamma": ".weight"}
    keys: Mapping[str, str] = field(default_factory=dict)  # the same of configuration keys, old -> new

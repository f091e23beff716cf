"""The vocabulary: what is asked, and what comes back. Every layer speaks it; none is named here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Task(Enum):
    GENERATE = "generate"
    FILL_MASK = "fill-mask"
    EMBED = "embed"


class FinishReason(Enum):
    LENGTH = "length"  # as many tokens as were asked for, or as the context holds
    EOS = "eos"  # the model ended its text
    STOP = "stop"  # one of the request's stop strings appeared


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one token is chosen. Applied in this order: repetition penalty, temperature, min_p, top_k, top_p.

    `temperature` 0 is greedy. `seed` keys the counter-based generator: equal seeds give equal text.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """`prompt` is text or token ids; `max_new_tokens` None means: as many as the context holds."""

    prompt: str | tuple[int, ...]
    sampling: Sampling
    model: str | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    truncate: int | None = None  # keep only the last so many prompt tokens
    add_special_tokens: bool = True  # False where a chat template has written them already


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """`text` is what this token added to the stream; for a special token, its name."""

    id: int
    text: str
    logprob: float
    special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    reason: FinishReason
    text: str  # everything generated, special tokens and the stop string left out
    prompt_tokens: int
    generated_tokens: int
    seed: int
    stop: str | None = None  # the stop string that ended it


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a stream. `finish` is set on the last one only."""

    tokens: tuple[Token, ...]
    finish: Finish | None = None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens if not token.special)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillMaskRequest:
    """`targets` restrict the candidates to these words; scores are not renormalised."""

    text: str
    model: str | None = None
    top_k: int = 5
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCandidate:
    score: float
    token: int
    token_str: str
    sequence: str


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """One text to embed. `truncate` cuts what exceeds the model at `truncation_side` instead of refusing."""

    text: str | tuple[int, ...]
    model: str | None = None
    truncate: bool = False
    truncation_side: Side = Side.RIGHT
    normalize: bool = True
    dimensions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    vector: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskWork:
    """For an encoder: what stands at `positions`? `targets` are the only tokens of interest, if given."""

    positions: tuple[int, ...]
    top_k: int
    targets: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedWork:
    """For an encoder: the passage as one vector, its first `dimensions` numbers only if given."""

    normalize: bool = True
    dimensions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a loaded model is, and can do."""

    name: str
    source: str
    architecture: str
    tasks: frozenset[Task]
    max_tokens: int  # of a text; for a decoder of prompt and answer together, by its context and KV cache
    vocab_size: int  # token ids are below it
    parameters: int
    dtype: str
    device: str
    fingerprint: str  # equal fingerprints promise equal text
    batch_invariant: bool  # whether a text is the same bit for bit alone and in any company
    embedding_size: int | None = None
    pooling: str | None = None

"""One request as the scheduler sees it: token numbers, and how far the model has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.request import EmbedWork, FinishReason, MaskWork, Sampling


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """`tokens` is prompt + output; the KV cache holds the first `computed` of them, in `blocks`."""

    id: int
    tokens: list[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: frozenset[int] = frozenset()
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    prompt_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why nothing more is to be generated; None while something is."""
        generated = len(self.tokens) - self.prompt_length
        if generated and self.tokens[-1] in self.stop_tokens:
            return FinishReason.EOS
        return FinishReason.LENGTH if generated >= self.max_new_tokens else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passage:
    """A text for an encoder: it runs whole, in one step, and holds no blocks."""

    id: int
    tokens: tuple[int, ...]
    work: MaskWork | EmbedWork

"""One request as the scheduler sees it: token numbers, and how far the model has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.request import Beams, EmbedWork, FinishReason, MaskWork, Sampling
from server.scheduling.prefix import Prefix

if TYPE_CHECKING:
    from server.scheduling.beams import Search


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """`tokens` is prompt + output; the KV cache holds the first `computed` of them, in `blocks`.

    That of an encoder-decoder has a `source`, too: the encoder's tokens. What the decoder attends to of it is
    in the blocks of `memory` once it is `encoded`, for as long as the sequence has its seat.

    One with `beams` has a `search` from its first token on. Until that is over, `tokens` is the prompt alone;
    a search that loses its seat begins anew.
    """

    id: int
    tokens: list[int]
    max_new_tokens: int  # 0: the prompt is only scored
    source: tuple[int, ...] = ()
    beams: Beams | None = None
    lora: str | None = None  # the adapter that it runs with
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: frozenset[int] = frozenset()
    tenant: str = ""
    priority: int = 0
    deadline: float = float("inf")  # in the loop's clock
    salt: bytes = b""  # of the prefix cache: only sequences of the same salt share blocks
    alternatives: int = 0
    prompt_alternatives: int | None = None  # None: the prompt is not scored
    constrained: bool = False  # by a grammar, which the runner holds
    computed: int = 0
    blocks: list[int] = field(default_factory=list)  # each once, of all branches
    memory: list[int] = field(default_factory=list)
    encoded: bool = False
    search: Search | None = None
    cached: int | None = None  # tokens of the prompt found in the cache; None until it is admitted
    scored: int = 0  # tokens of the prompt whose log-probabilities have been reported
    surprise: float | None = None  # mirostat's running bound, in bits
    appended: int = 0  # how many of what its last step sampled stand: the first so many of `Sampled.tokens`
    read: bool = False  # the whole prompt has been computed, be it in the cache still or not
    timed_out: bool = False
    arrival: int = 0  # the lane numbers them as they come
    served: int = 0  # the lane numbers decode rows, too: this is its latest
    chain: list[Prefix] = field(default_factory=list, repr=False)  # of its full blocks, as far as named
    prompt_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def num_tokens(self) -> int:
        """Of source and text together: what it takes to compute it from nothing."""
        return len(self.source) + len(self.tokens)

    @property
    def held(self) -> list[int]:
        """Every block that it holds, each once."""
        return [*self.blocks, *self.memory]

    @property
    def unencoded(self) -> int:
        """Tokens of its source that the next step has to encode: all of them or none."""
        return 0 if self.encoded else len(self.source)

    @property
    def length(self) -> int:
        """Of its text, or of each of its branches."""
        return len(self.tokens) + (0 if self.search is None or self.search.best else self.search.generated)

    @property
    def width(self) -> int:
        """How many texts go on side by side: rows of a step."""
        return 1 if self.search is None else len(self.search.branches)

    @property
    def greatest_width(self) -> int:
        """Once its prompt is read."""
        return 1 if self.beams is None or not self.max_new_tokens else self.beams.width

    @property
    def pending(self) -> int:
        return self.length - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def decoding(self) -> bool:
        """One token behind, as a stream is between two steps."""
        return self.pending == 1

    @property
    def findable(self) -> int:
        """Tokens that may be taken from the cache: one is left to compute, and those to be scored are not."""
        unscored = self.prompt_alternatives is not None and self.scored < self.prompt_length - 1
        return self.scored if unscored else len(self.tokens) - 1

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why nothing more is to be done; None while something is."""
        if self.timed_out:
            return FinishReason.TIMEOUT
        if self.generated and self.tokens[-1] in self.stop_tokens:
            return FinishReason.EOS
        wanted = self.max_new_tokens if self.beams is None else min(self.max_new_tokens, 1)
        complete = self.generated >= wanted if wanted else self.read
        return FinishReason.LENGTH if complete else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passage:
    """A text for an encoder: it runs whole, in one step, and holds no blocks."""

    id: int
    tokens: tuple[int, ...]
    work: MaskWork | EmbedWork
    lora: str | None = None
    tenant: str = ""
    priority: int = 0
    deadline: float = float("inf")  # in the loop's clock

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

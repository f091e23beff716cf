"""What crosses to the runner, and what comes back. Plain data.

What is made for each row of each step is not frozen: a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from server.scheduling.sequence import Passage, Sequence


@dataclass(slots=True)
class Run:
    """Consecutive tokens from `start` on, whose keys and values go to the blocks of `table`."""

    table: Seq[int]
    start: int
    tokens: Seq[int]


@dataclass(slots=True)
class Slice:
    """Run `count` tokens of `sequence` from `start`; it samples when it reaches the end.

    A `draft` guesses what comes after the sequence's own tokens: these are computed in the same pass, and
    as many of them stand as the sampler agrees with. `count` includes them.

    One that `encodes` is the first since its sequence has a seat: before it the encoder runs over the whole
    source, and what the decoder attends to goes to the blocks of `sequence.memory`.

    Of a beam search it is one token of each branch, `width` in all; before it, the contents of blocks are
    copied as `copies` says, (from, to).
    """

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()
    encodes: bool = field(default=False, kw_only=True)
    width: int = field(default=1, kw_only=True)
    copies: tuple[tuple[int, int], ...] = field(default=(), kw_only=True)

    @property
    def num_tokens(self) -> int:
        """That are computed, of all branches, and of the source where this encodes it."""
        return self.count * self.width + (len(self.sequence.source) if self.encodes else 0)

    @property
    def streams(self) -> bool:
        """Whether this is a row of a stream, with its draft, rather than work on a prompt."""
        return self.count - len(self.draft) == 1 and not self.encodes

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def runs(self) -> list[Run]:
        """What is computed: `width` runs of `count` tokens."""
        sequence, search = self.sequence, self.sequence.search
        if search is not None:
            return [Run(one.table, self.start, [one.said[-1].token]) for one in search.branches]
        return [Run(sequence.blocks, self.start, [*sequence.tokens[self.start : self.end], *self.draft])]

    @property
    def samples(self) -> bool:
        return self.end == self.sequence.length + len(self.draft) and self.sequence.max_new_tokens > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """One forward pass of a decoder over slices of its sequences, and of the encoder over new sources."""

    model: str
    slices: tuple[Slice, ...]

    @property
    def num_tokens(self) -> int:
        return sum(piece.num_tokens for piece in self.slices)

    @property
    def ids(self) -> list[int]:
        return [piece.sequence.id for piece in self.slices]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeStep:
    """One forward pass of an encoder over whole passages."""

    model: str
    passages: tuple[Passage, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(passage.tokens) for passage in self.passages)

    @property
    def ids(self) -> list[int]:
        return [passage.id for passage in self.passages]


Step = DecodeStep | EncodeStep


class Scored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token and its log-probability, the model's own: before any penalty or temperature.

    `alternatives` are the most probable (token, log-probability) pairs, best first, if any were asked for.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Sampled:
    """What a slice that samples yields: one token, and one more for each of its draft's that stands."""

    tokens: tuple[Scored, ...]
    surprise: float | None = None  # mirostat's bound for the next token
    failure: str | None = None  # why its grammar cannot follow the text any further


@dataclass(frozen=True, slots=True)
class Continuation:
    """A branch of a beam search, by its number, gone on by a token: `scored` is the model's own, as ever.

    `score` sums the log-probabilities of the branch up to this token, after bias, bans and penalties.
    """

    parent: int
    scored: Scored
    score: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder says of one passage: a `vector`, or for each mask its (token, score) candidates."""

    vector: tuple[float, ...] = ()
    masks: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """By request id: for each slice that samples, tokens, or the continuations of its beams, best first; for
    each passage an answer.

    `prompt`: where asked for, the scores of the prompt tokens that follow those computed: a slice up to `end`
    scores those after `sequence.scored`, up to and including token `end` (the first is scored by nobody).
    """

    sampled: Mapping[int, Sampled] = field(default_factory=dict)
    continued: Mapping[int, tuple[Continuation, ...]] = field(default_factory=dict)
    prompt: Mapping[int, tuple[Scored, ...]] = field(default_factory=dict)
    encoded: Mapping[int, Encoded] = field(default_factory=dict)


class Runner(Protocol):
    """Runs one step on the device. The real one is `execution.Runner`; tests bring their own."""

    def run(self, step: Step) -> Results: ...

"""What crosses to the runner, and what comes back. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from server.scheduling.sequence import Passage, Sequence


@dataclass(frozen=True, slots=True)
class Slice:
    """Run `count` tokens of `sequence` from `start`; it samples when it reaches the end."""

    sequence: Sequence
    start: int
    count: int

    @property
    def samples(self) -> bool:
        return self.start + self.count == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """One forward pass of a decoder over slices of its sequences."""

    model: str
    slices: tuple[Slice, ...]

    @property
    def num_tokens(self) -> int:
        return sum(piece.count for piece in self.slices)

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


@dataclass(frozen=True, slots=True)
class Sampled:
    """`logprob` is the model's own, before any penalty or temperature."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder says of one passage: a `vector`, or for each mask its (token, score) candidates."""

    vector: tuple[float, ...] = ()
    masks: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """By request id: a token for each slice that samples, an answer for each passage."""

    sampled: Mapping[int, Sampled] = field(default_factory=dict)
    encoded: Mapping[int, Encoded] = field(default_factory=dict)


class Runner(Protocol):
    """Runs one step on the device. The real one is `execution.Runner`; tests bring their own."""

    def run(self, step: Step) -> Results: ...

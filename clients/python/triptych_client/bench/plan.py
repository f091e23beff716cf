"""What to send, and what is written down of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from triptych_client.bench.dialects import Dialect, LeftOut, Question
from triptych_client.bench.prompts import Prompt, made_up, questions

FILL_MASK_TEXT = "Paris is the [MASK] of France."
STREAMS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send.

    streams: how many requests at a time, in a closed loop.
    requests: how many in all.
    rate: arrivals a second on average; None is the closed loop.
    burst: how many arrive at once in an open loop; groups of them are as far apart as `rate` asks.
    tokens: how many to generate for each request.
    prompt: the same for all.
    prompts: one after the other, from the first again after the last.
    prompt_words: without either, the length of made-up ones, each different from its first word on.
    batch: texts in each request, for the APIs that do not generate.
    rivals: streams of another API key beside, always so many; uncounted.
    api_key: whose requests these are.
    fill_mask_every_ms: how often to `POST /fill-mask` with `fill_mask_text` beside the requests; None: never.
    warmup: requests to send beforehand, uncounted. They also find out which fields the server refuses.
    timeout_s: the longest silence.
    seed: of prompts and arrivals.

    Raises ValueError for what cannot be done together.
    """

    url: str
    dialect: Dialect
    streams: int = STREAMS
    requests: int = STREAMS
    rate: float | None = None
    burst: int = 1
    tokens: int = 128
    prompt: str | None = None
    prompts: tuple[Prompt, ...] = ()
    prompt_words: int = 32
    batch: int = 1
    rivals: int = 0
    api_key: str | None = None
    fill_mask_every_ms: float | None = None
    fill_mask_text: str = FILL_MASK_TEXT
    warmup: int = 1
    timeout_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompt is not None and self.prompts:
            raise ValueError("one prompt for all, or several: not both")
        if self.batch > 1 and self.dialect.generates:
            raise ValueError(f"{self.dialect.path} takes one text a request: no batch of {self.batch}")
        if self.burst > 1 and self.rate is None:
            raise ValueError("bursts are of arrivals: they need a rate")

    def ask(self, count: int, salt: str = "prompt") -> Iterator[Question]:
        """`count` questions. Another `salt` asks others, unless the plan says what to ask."""
        each = self.batch + self.dialect.queries
        return questions(self._prompts(salt), count=count, texts_each=each, tokens=self.tokens)

    def _prompts(self, salt: str) -> Iterator[Prompt]:
        if self.prompt is not None:
            return itertools.repeat(Prompt(text=self.prompt))
        if self.prompts:
            return itertools.cycle(self.prompts)
        texts = made_up(words=self.prompt_words, seed=self.seed, salt=salt)
        return (Prompt(text=text) for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`kind` is what happened, with the HTTP status if there was one: `Overloaded (429)`."""

    kind: str
    message: str


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request. Times in seconds on one clock.

    started_s: when it was sent, or should have been in an open loop.
    arrivals_s: one for each event that brought a token; empty where the answer comes whole.
    tokens: generated, by the server's own count where `counted` is true, else by the number of events.
    asked_tokens: how many were to be generated.
    texts: how many texts it brought.
    prompt_tokens: what these came to, where the server says so.
    """

    started_s: float
    arrivals_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    tokens: int = 0
    asked_tokens: int = 0
    counted: bool = False
    texts: int = 1
    prompt_tokens: int | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRecord:
    """One fill-mask request beside the others."""

    latency_s: float
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Requests in the order of their start, at least one; fill-mask requests in the order of their end.

    left_out: fields that the server refused, and that were left out for it.
    generator_cpu_s: processor time that the load generator took for itself, in seconds.
    """

    plan: Plan
    requests: tuple[RequestRecord, ...]
    fills: tuple[FillRecord, ...] = ()
    left_out: LeftOut = frozenset()
    generator_cpu_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a load has come, while it runs."""

    requests: int
    ended: int = 0
    failed: int = 0
    tokens: int = 0

"""How fast one model answers, by the scheduler and the runner of a server: what HTTP adds is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import median

from models.config import Head
from models.loading import LoadedDecoder
from models.native.limits import BEYOND_CACHES, measure_reading
from models.native.profile import profiling
from server.scheduling.plan import DecodeStep, Results, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence as Text
from server.settings import BadSetting
from server.shell.measuring.bringing import Brought
from server.shell.measuring.steps import Reader, Writer
from server.shell.measuring.timing import median_s, seconds_of

PROMPT_TOKENS = 32  # of what is continued
TRIES = 5  # of reading a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """`batch` texts that grow side by side. `step_s`: the median of steps in which all of them do."""

    batch: int
    step_s: float
    first_token_s: float  # the median over the texts, which come at once

    @property
    def tokens_per_s(self) -> float:
        return self.batch / self.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """A prompt (of an encoder-decoder: a source) by itself, and the first token behind it; medians."""

    tokens: int
    first_token_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.first_token_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Texts of `length` tokens that come at once, until all have their vectors; the median."""

    texts: int
    length: int
    seconds: float

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """What memory gives, and the matrices that a step with one row reads from it, each once."""

    weight_bytes: float
    bytes_per_s: float

    @property
    def least_s(self) -> float:
        """That such a step takes, as long as caches keep next to nothing of its weights."""
        return self.weight_bytes / self.bytes_per_s


def bandwidth(brought: Brought, writer: Writer) -> Bandwidth | None:
    """None where memory is not this machine's own, or nobody counts what is read of an encoder-decoder."""
    if brought.computing.device.type != "cpu":
        return None
    weights = (
        _weights_counted(brought) if brought.computing.kernels is None else _weights_profiled(brought, writer)
    )
    if weights is None:
        return None
    return Bandwidth(
        weight_bytes=weights, bytes_per_s=measure_reading(brought.computing.threads, BEYOND_CACHES)
    )


def usual(measured: Sequence[Bandwidth | None]) -> Bandwidth | None:
    """The middle one of several: memory is now faster, now slower where the machine is not ours alone."""
    known = sorted((one for one in measured if one is not None), key=lambda one: one.bytes_per_s)
    return known[len(known) // 2] if known else None


class Speeds:
    """What is measured of a decoder or an encoder-decoder."""

    def __init__(self, brought: Brought, writer: Writer) -> None:
        self._writer = writer
        self._itl_target_s = brought.itl_target_s
        self._ids = count()

    def decode(self, batch: int, new_tokens: int) -> Decoding:
        """`batch` prompts of 32 tokens, and as many new ones of each, which must fit.

        Raises BadSetting where some texts end before others begin.
        """
        watch = _Watch(batch)
        self._generate(batch, min(PROMPT_TOKENS, self._writer.longest_prompt), new_tokens, watch)
        if not watch.steps_s:
            raise BadSetting(f"--tokens {new_tokens}: of {batch} texts some end before others begin")
        return Decoding(
            batch=batch, step_s=median(watch.steps_s), first_token_s=median(watch.first_tokens_s.values())
        )

    def prefill(self, tokens: int) -> Prefill:
        """The prompt must fit."""
        times = [seconds_of(lambda: self._generate(1, tokens, 1)) for _ in range(1 + TRIES)]
        return Prefill(tokens=tokens, first_token_s=median(times[1:]))

    def _generate(self, batch: int, prompt: int, new_tokens: int, watch: _Watch | None = None) -> None:
        writer = self._writer
        scheduler = Scheduler({writer.name: writer.lane(batch)}, itl_target_s=self._itl_target_s)
        for _ in range(batch):
            text = writer.text(next(self._ids), prompt=prompt, new_tokens=new_tokens)
            scheduler.generate(writer.name, text)
        run_dry(scheduler, writer.runner.run, None if watch is None else watch.note)


class _Watch:
    """Writes down when texts have their first token, and how long steps take in which all of them grow."""

    def __init__(self, batch: int) -> None:
        self.steps_s = list[float]()
        self.first_tokens_s = dict[int, float]()  # by id
        self._batch = batch
        self._began = time.perf_counter()

    def note(self, step: Step, seconds: float) -> None:
        assert isinstance(step, DecodeStep)
        now = time.perf_counter() - self._began
        for piece in step.slices:
            if piece.sequence.generated:
                self.first_tokens_s.setdefault(piece.sequence.id, now)
        if len(step.slices) == self._batch and all(_grows(piece.sequence) for piece in step.slices):
            self.steps_s.append(seconds)


def _grows(text: Text) -> bool:
    """Whether the step that is over was not that of its prompt."""
    return text.generated > 1


def encode(brought: Brought, reader: Reader, texts: int, length: int, *, at_least_s: float) -> Encoding:
    """The texts must not be longer than the model takes."""

    def work() -> None:
        scheduler = Scheduler({reader.name: reader.lane()}, itl_target_s=brought.itl_target_s)
        for passage in reader.passages(texts, length):
            scheduler.encode(reader.name, passage)
        run_dry(scheduler, reader.runner.run)

    return Encoding(texts=texts, length=length, seconds=median_s(work, at_least_s))


def run_dry(
    scheduler: Scheduler,
    run: Callable[[Step], Results],
    note: Callable[[Step, float], None] | None = None,
) -> None:
    """Plan and run until nothing is left. `note` is told each step and its seconds, planning included."""
    began = time.perf_counter()
    while (step := scheduler.next_step()) is not None:
        started = time.perf_counter()
        results = run(step)
        scheduler.apply(step, results, time.perf_counter() - started)
        if note is not None:
            note(step, time.perf_counter() - began)
        began = time.perf_counter()


def _weights_profiled(brought: Brought, writer: Writer) -> float:
    assert brought.computing.kernels is not None
    with profiling(brought.computing.kernels) as profile:
        writer.runner.run(writer.decode(1, 1, min(1, writer.longest_prompt) if writer.reads_sources else 0))
    return sum(total.matrix_bytes for total in profile.totals.values())


def _weights_counted(brought: Brought) -> float | None:
    """All parameters but a table of words that only looks up."""
    weights = brought.weights
    if not isinstance(weights, LoadedDecoder):
        return None
    config = weights.config
    looked_up = 0 if config.head is Head.TIED else config.vocab_size * config.hidden_size
    return float((weights.parameters - looked_up) * brought.computing.dtype.itemsize)

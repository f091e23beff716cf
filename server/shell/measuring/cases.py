"""What `triptych profile` runs, and where the time of it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from models.loading import LoadedEncoder
from models.native.library import Library
from models.native.limits import BEYOND_CACHES, Limits, measure_reading
from models.native.profile import Kin, Total, profiling
from models.native.structures import Format
from server.execution.runner import Runner
from server.hosting import BLOCK_SIZE
from server.scheduling.plan import Step
from server.settings import BadSetting
from server.shell.measuring.bringing import Brought
from server.shell.measuring.steps import Reader, Writer, check_length
from server.shell.measuring.timing import repeated, run_all, seconds_of

BATCHES, CONTEXTS, PROMPTS = (1, 8, 32), (128,), (512,)
TEXTS, LENGTHS = (1, 32), (32, 128)
ROUNDS = 3

Turn = tuple[float, dict[Kin, Total]]  # seconds of the steps of a case, and what its operations took


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be run; None: as usual for the model.

    `contexts` and `prompts` are of decoders, `lengths` of encoders; all in tokens.
    """

    batches: tuple[int, ...] | None = None
    contexts: tuple[int, ...] | None = None
    prompts: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`steps` are measured as one; `alone`: they are one step with one row."""

    name: str
    steps: Sequence[Step]
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A case and what it took: seconds of the whole, and by operation."""

    case: Case
    seconds: float
    operations: dict[Kin, Total]
    limits: Limits

    @property
    def between_s(self) -> float:
        """Outside of operations: Python, embeddings, the sampler."""
        return max(0.0, self.seconds - sum(total.seconds for total in self.operations.values()))

    @property
    def nbytes(self) -> float:
        """Of matrices, keys and values that are read."""
        return sum(total.nbytes for total in self.operations.values())

    @property
    def bytes_per_s(self) -> float:
        return self.nbytes / self.seconds


class Observer:
    """Runs cases, and measures by turns with each what memory gives, and for as many bytes as a step reads.

    By turns, as the machine is now faster, now slower where it is not ours alone.
    """

    def __init__(self, library: Library, arithmetic: Mapping[Format, float], *, at_least_s: float) -> None:
        self._library = library
        self._arithmetic = arithmetic
        self._at_least_s = at_least_s

    def observe(self, runner: Runner, case: Case) -> Observed:
        turns, memory, reread = list[Turn](), list[float](), list[float]()
        for _ in range(ROUNDS):
            turns += repeated(
                lambda: self._turn(runner, case), lambda turn: turn[0], self._at_least_s / ROUNDS, fewest=2
            )
            a_step = sum(total.nbytes for total in turns[0][1].values()) / len(case.steps)
            memory.append(measure_reading(self._library.threads, BEYOND_CACHES))
            reread.append(measure_reading(self._library.threads, round(a_step)))
        seconds, operations = _usual(turns)
        limits = Limits(
            memory_per_s=median(memory),
            reread_per_s=max(median(memory), median(reread)),
            operations_per_s=self._arithmetic,
        )
        return Observed(case=case, seconds=seconds, operations=operations, limits=limits)

    def _turn(self, runner: Runner, case: Case) -> Turn:
        with profiling(self._library) as profile:
            seconds = seconds_of(lambda: run_all(runner, case.steps))
        return seconds - profile.own_seconds, profile.totals


def plan(brought: Brought, wishes: Wishes) -> tuple[Runner, list[Case]]:
    """Raises BadSetting where a wish is for another kind of model, or too much for this one."""
    if isinstance(brought.weights, LoadedEncoder):
        return _plan_reading(Reader(brought), wishes)
    return _plan_writing(brought, wishes)


def _plan_reading(reader: Reader, wishes: Wishes) -> tuple[Runner, list[Case]]:
    for flag, wish in (("--contexts", wishes.contexts), ("--prompts", wishes.prompts)):
        if wish is not None:
            raise BadSetting(f"{flag}: {reader.name} is an encoder; --lengths says how long its texts are")
    lengths = wishes.lengths or _within(LENGTHS, reader.config.context_length)
    check_length("--lengths", lengths, reader.config.context_length)
    shapes = [(texts, length) for texts in wishes.batches or TEXTS for length in lengths]
    return reader.runner, [
        Case(name=f"texts {texts}, length {length}", steps=reader.encode(texts, length))
        for texts, length in shapes
    ]


def _plan_writing(brought: Brought, wishes: Wishes) -> tuple[Runner, list[Case]]:
    if wishes.lengths is not None:
        raise BadSetting(f"--lengths: {brought.name} is no encoder; --contexts and --prompts are for it")
    batches = wishes.batches or BATCHES
    longest = max(wishes.contexts or CONTEXTS) + max(wishes.prompts or PROMPTS)
    writer = Writer(brought, tokens=max(batches) * (longest + 2 * BLOCK_SIZE))
    contexts = wishes.contexts or _within(CONTEXTS, writer.config.context_length)
    prompts = wishes.prompts or _within(PROMPTS, writer.longest_prompt)
    check_length("--contexts", contexts, writer.config.context_length)
    check_length("--prompts", prompts, writer.longest_prompt)
    source = min(prompts) if writer.reads_sources else 0
    writer.check_batches(batches, max(contexts), source)
    writer.check_prompt("--prompts", max(prompts), new_tokens=0)
    writer.fill()
    what = "source" if writer.reads_sources else "prompt"
    return writer.runner, [
        *_decoding(writer, batches, contexts, source),
        *(Case(name=f"{what} of {prompt}", steps=writer.read(prompt)) for prompt in prompts),
    ]


def _decoding(writer: Writer, batches: Sequence[int], contexts: Sequence[int], source: int) -> Iterator[Case]:
    behind = f", source {source}" if source else ""
    for batch in batches:
        for context in contexts:
            yield Case(
                name=f"decode, batch {batch}, context {context}{behind}",
                steps=[writer.decode(batch, context, source)],
                alone=batch == 1,
            )


def _within(usual: tuple[int, ...], most: int) -> tuple[int, ...]:
    """What is usual, or less where the model takes less."""
    return tuple(sorted({min(one, most) for one in usual}))


def _usual(turns: Sequence[Turn]) -> Turn:
    """The mean of the middle third of several turns of the same steps, so that parts add up to the whole."""
    by_time = sorted(turns, key=lambda turn: turn[0])
    middle = by_time[len(turns) // 3 : len(turns) - len(turns) // 3]
    totals = middle[0][1]
    for kin, total in totals.items():
        total.seconds = fmean(operations[kin].seconds for _, operations in middle)
    return fmean(seconds for seconds, _ in middle), totals

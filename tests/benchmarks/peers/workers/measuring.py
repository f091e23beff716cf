"""The same measurements for every engine: needs the standard library only."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median

from tests.benchmarks.peers.workers.task import Task

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], object]

BATCHES = (1, 8, 32)
PROMPT_TOKENS = 32
NEW_TOKENS = 128
PREFILL_TOKENS = 512
TOKENS = range(1_000, 25_000)  # whole words in the vocabularies of all three models
MAX_REPEATS = 200


def measure_decoder(generate: Generate, task: Task) -> None:
    """Report prompt and decoding speed. `generate` continues prompts, all in one batch, greedily and past
    any end of text, by so many tokens each.

    A batch of B decodes ``B * 127 / (T(128 new) - T(1 new))`` tokens a second. No prompt comes twice, so
    that no cache of prefixes helps.
    """
    numbers = random.Random(0)
    generate(_prompts(numbers, 1, PROMPT_TOKENS), 4)  # whatever is made on first use
    prefill_s = _best_s(lambda: generate(_prompts(numbers, 1, PREFILL_TOKENS), 1), task.repeats + 1)
    task.report("prefill_512", PREFILL_TOKENS / prefill_s)
    for batch in BATCHES:
        task.report(f"decode_{batch}", _decoded_per_s(generate, numbers, batch, task.repeats))


def measure_encoder(prepare: Callable[[Prompts], Callable[[], object]], task: Task) -> None:
    """Report texts a second. `prepare` makes of a batch what computes it; making it does not count.

    The median of as many repeats as there is time for.
    """
    numbers = random.Random(0)
    for length in (32, 128):
        for batch in (1, 32):
            compute = prepare(_prompts(numbers, batch, length))
            compute()
            task.report(f"batch{batch}_length{length}", batch / _median_s(compute, task.at_least_s))


def _decoded_per_s(generate: Generate, numbers: random.Random, batch: int, repeats: int) -> float:
    def seconds(tokens: int) -> float:
        return _best_s(lambda: generate(_prompts(numbers, batch, PROMPT_TOKENS), tokens), repeats)

    return batch * (NEW_TOKENS - 1) / (seconds(NEW_TOKENS) - seconds(1))


def _prompts(numbers: random.Random, batch: int, length: int) -> Prompts:
    return [numbers.choices(TOKENS, k=length) for _ in range(batch)]


def _best_s(work: Callable[[], object], repeats: int) -> float:
    return min(_seconds(work) for _ in range(repeats))


def _median_s(work: Callable[[], object], at_least_s: float) -> float:
    times = [_seconds(work)]
    while sum(times) < at_least_s and len(times) < MAX_REPEATS:
        times.append(_seconds(work))
    return median(times)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

"""Runs steps again and again, and says what is usual."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

from server.execution.runner import Runner
from server.scheduling.plan import Step

FEWEST = 5
MOST = 400

Measured = TypeVar("Measured")


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def repeated(
    measure: Callable[[], Measured],
    seconds: Callable[[Measured], float],
    at_least_s: float,
    fewest: int = FEWEST,
) -> list[Measured]:
    """Measure so many times or more, until that has taken so long in all; one before does not count."""
    measure()
    measured = list[Measured]()
    while len(measured) < fewest or (sum(map(seconds, measured)) < at_least_s and len(measured) < MOST):
        measured.append(measure())
    return measured


def median_s(work: Callable[[], object], at_least_s: float) -> float:
    """Seconds that `work` takes, usually."""
    return median(repeated(lambda: seconds_of(work), float, at_least_s))


def run_all(runner: Runner, steps: Sequence[Step]) -> None:
    for step in steps:
        runner.run(step)

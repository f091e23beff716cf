"""What happened so far, as plain numbers. Exporters read them; the hot path only counts."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

LATENCY_BOUNDS_S = (
    *(0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 10, 30, 60, 120),
)


class Histogram:
    """Counts of observations at or below each bound, Prometheus fashion."""

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: above every bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


@dataclass(slots=True)
class ModelStats:
    """Of one model. Times in seconds."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, outcome)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    time_to_first_token: Histogram = field(default_factory=Histogram)
    inter_token_latency: Histogram = field(default_factory=Histogram)
    request_latency: Histogram = field(default_factory=Histogram)
    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0


@dataclass(slots=True)
class Stats:
    models: dict[str, ModelStats] = field(default_factory=dict)
    steps: int = 0
    step_seconds: Histogram = field(default_factory=Histogram)

"""`GET /metrics`: the engine's counters as Prometheus text, read when asked and never before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

from server.api.edge import EdgeOf
from server.engine.stats import Histogram, ModelStats, Stats

EXAMPLE = 'triptych_generated_tokens_total{model="smollm2"} 128.0\n'

COUNTERS: tuple[tuple[str, str, Callable[[ModelStats], float]], ...] = (
    ("prompt_tokens", "Tokens read from prompts", lambda stats: stats.prompt_tokens),
    ("generated_tokens", "Tokens generated", lambda stats: stats.generated_tokens),
    ("cached_tokens", "Tokens of prompts that were found in the cache", lambda stats: stats.cached_tokens),
    ("drafted_tokens", "Tokens guessed ahead", lambda stats: stats.drafted_tokens),
    ("accepted_tokens", "Tokens guessed ahead that were right", lambda stats: stats.accepted_tokens),
    ("preemptions", "Sequences sent back to the queue to make room", lambda stats: stats.preemptions),
)
GAUGES: tuple[tuple[str, str, Callable[[ModelStats], float]], ...] = (
    ("requests_running", "Requests being worked on", lambda stats: stats.running),
    ("requests_waiting", "Requests in the queue", lambda stats: stats.waiting),
    ("kv_blocks_used", "Blocks of the KV cache in use", lambda stats: stats.blocks_used),
    ("kv_blocks", "Blocks of the KV cache", lambda stats: stats.blocks_total),
)
HISTOGRAMS: tuple[tuple[str, str, Callable[[ModelStats], Histogram]], ...] = (
    (
        "time_to_first_token_seconds",
        "From the request to its first token",
        lambda stats: stats.time_to_first_token,
    ),
    (
        "inter_token_latency_seconds",
        "Between two tokens of one stream",
        lambda stats: stats.inter_token_latency,
    ),
    ("request_latency_seconds", "From the request to its end", lambda stats: stats.request_latency),
)

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"description": "Done", "content": {"text/plain": {"example": EXAMPLE}}}},
)
async def metrics(edge: EdgeOf) -> Response:
    """Everything is named `triptych_...` and labelled by model; times are in seconds."""
    registry = CollectorRegistry()
    registry.register(StatsCollector(edge.engine.stats))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class StatsCollector(Collector):
    """Reads `Stats` at the moment of a scrape."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        yield self._requests()
        yield from self._counters()
        yield from self._gauges()
        yield from self._histograms()
        yield from self._steps()

    def _requests(self) -> Metric:
        family = CounterMetricFamily(
            "triptych_requests", "Requests that ended, by how", labels=("model", "task", "outcome")
        )
        for model, stats in self._stats.models.items():
            for (task, outcome), count in stats.requests.items():
                family.add_metric((model, task, outcome), count)
        return family

    def _counters(self) -> Iterator[Metric]:
        for name, text, read in COUNTERS:
            family = CounterMetricFamily(f"triptych_{name}", text, labels=("model",))
            for model, stats in self._stats.models.items():
                family.add_metric((model,), read(stats))
            yield family

    def _gauges(self) -> Iterator[Metric]:
        for name, text, read in GAUGES:
            family = GaugeMetricFamily(f"triptych_{name}", text, labels=("model",))
            for model, stats in self._stats.models.items():
                family.add_metric((model,), read(stats))
            yield family

    def _histograms(self) -> Iterator[Metric]:
        for name, text, read in HISTOGRAMS:
            family = HistogramMetricFamily(f"triptych_{name}", text, labels=("model",))
            for model, stats in self._stats.models.items():
                _add(family, (model,), read(stats))
            yield family

    def _steps(self) -> Iterator[Metric]:
        yield CounterMetricFamily("triptych_steps", "Steps of the engine", value=self._stats.steps)
        family = HistogramMetricFamily("triptych_step_seconds", "Duration of a step", labels=())
        _add(family, (), self._stats.step_seconds)
        yield family


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)

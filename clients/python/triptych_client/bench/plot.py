"""A measurement as a picture: how latency went over time, and how it is distributed.

matplotlib draws it; it is an extra, `triptych-client[plot]`, and imported only where a picture is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from triptych_client.bench.plan import Measurement, RequestRecord
from triptych_client.bench.report import duration_s
from triptych_client.bench.slo import first_token_s

FORMATS = (".png", ".svg", ".pdf")
BINS = 60
INCHES = (12.0, 7.5)


class PlotUnavailable(Exception):
    """matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("--plot needs matplotlib; type: pip install 'triptych-client[plot]'")


def load_matplotlib() -> Any:
    """The module of matplotlib that draws, without a window. Raises PlotUnavailable."""
    try:
        return importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise PlotUnavailable from error


def plot(measured: Measurement, path: Path) -> None:
    """Draw `measured` into `path`, whose ending is one of `FORMATS`. Raises PlotUnavailable, OSError."""
    figure = load_matplotlib().Figure(figsize=INCHES, layout="constrained")
    figure.suptitle(f"{measured.plan.url}  POST {measured.plan.dialect.path}")
    (over_time, distribution), (throughput, gaps) = figure.subplots(2, 2)
    _draw_latencies(over_time, measured)
    _draw_throughput(throughput, measured)
    ok = [record for record in measured.requests if record.failure is None]
    _draw_shares(distribution, {name: values for name, values in _latencies_ms(ok).items() if values})
    distribution.set(title="latency", xlabel="ms", ylabel="share of requests")
    between = [1000 * (b - a) for record in ok for a, b in pairwise(record.arrivals_s)]
    _draw_shares(gaps, {"between tokens": between} if between else {})
    gaps.set(title="between tokens", xlabel="ms", ylabel="share of tokens")
    figure.savefig(path)


def _latencies_ms(ok: Sequence[RequestRecord]) -> dict[str, list[float]]:
    first = [seconds for record in ok if (seconds := first_token_s(record)) is not None]
    whole = [record.ended_s - record.started_s for record in ok]
    return {"first token": [1000 * s for s in first], "end to end": [1000 * s for s in whole]}


def _draw_latencies(axes: Any, measured: Measurement) -> None:
    began_s = measured.requests[0].started_s
    ok = [record for record in measured.requests if record.failure is None]
    streamed = [record for record in ok if record.arrivals_s]
    for name, records in (("first token", streamed), ("end to end", ok)):
        if records:
            starts = [record.started_s - began_s for record in records]
            axes.plot(starts, _latencies_ms(records)[name], ".", label=name)
    if failed := [record for record in measured.requests if record.failure is not None]:
        starts = [record.started_s - began_s for record in failed]
        lasted = [1000 * (record.ended_s - record.started_s) for record in failed]
        axes.plot(starts, lasted, "rx", label="failed")
    axes.set(title="latency over time", xlabel="start of the request, s", ylabel="ms")
    axes.set_ylim(bottom=0)
    axes.legend()


def _draw_throughput(axes: Any, measured: Measurement) -> None:
    """Tokens as they came; where none are streamed, texts as they were answered."""
    began_s, lasted_s = measured.requests[0].started_s, duration_s(measured)
    arrivals = [at - began_s for record in measured.requests for at in record.arrivals_s]
    ends = [r.ended_s - began_s for r in measured.requests if r.failure is None for _ in range(r.texts)]
    what, moments = ("tokens", arrivals) if arrivals else ("texts", ends)
    width_s = lasted_s / BINS
    axes.hist(moments, bins=BINS, range=(0, lasted_s), weights=[1 / width_s] * len(moments))
    axes.set(title=f"{what}/s over time", xlabel="s", ylabel=f"{what}/s")


def _draw_shares(axes: Any, series: dict[str, list[float]]) -> None:
    for name, values in series.items():
        axes.ecdf(values, label=name)
    axes.grid(visible=True, alpha=0.3)
    if series:
        axes.legend()

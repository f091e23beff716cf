"""What a measurement says, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from triptych_client.bench.plan import Failure, Measurement, Plan, RequestRecord
from triptych_client.bench.slo import Goodput, Slo, first_token_s, goodput, time_per_token_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How `count` durations lie, in seconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """How often a kind of failure was seen, and what the first one said."""

    count: int
    first: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All durations in seconds; a spread is None where nothing was measured, a count where nobody told.

    load: what was sent, and where.
    ok, failed: requests. Those that failed count nowhere else, except for the time that they took.
    short: requests that ended well, but with fewer tokens than were asked for.
    duration: from the start of the first request to the end of the last.
    tokens_counted_by: "usage" (the server's own count), "events" (one for each that brought text), "usage and
        events" where some answers had no count; None where nothing can be counted.
    input_tokens: of the prompts, as far as the server tells.
    texts: what was embedded or ranked; of a generation, one a request.
    end_to_end: from the (planned) start of a request to its end.
    first_token: from the (planned) start of a request to its first token (TTFT).
    between_tokens: from each token to the next of the same request (ITL); its `max` is the longest that any
        stream stood still once it had begun. Tokens that come in one piece are 0 apart.
    time_per_token: of a request's tokens after the first, on average (TPOT); a value a request.
    all_overlap: whether every stream that was started at the outset had its first token before the first of
        them ended, so that none waited for another to end. None in an open loop, and for a single stream.
    failures: by kind; requests and fill-mask requests together.
    left_out: fields that the server refused to know, and that it was spared then.
    generator_cores: processor time of the load generator itself over the duration.
    """

    load: dict[str, Any]
    ok: int
    failed: int
    short: int
    duration: float
    requests_per_s: float
    output_tokens: int
    output_tokens_per_s: float
    tokens_counted_by: str | None
    input_tokens: int | None
    texts: int
    texts_per_s: float
    end_to_end: Spread | None
    first_token: Spread | None
    between_tokens: Spread | None
    time_per_token: Spread | None
    goodput: Goodput | None
    all_overlap: bool | None
    fill_mask_ok: int
    fill_mask_failed: int
    fill_mask: Spread | None
    failures: dict[str, FailureCount]
    left_out: list[str]
    generator_cores: float

    @property
    def failure_free(self) -> bool:
        return self.ok > 0 and not self.failed and not self.fill_mask_failed


def summarize(measured: Measurement, slo: Slo | None = None) -> Report:
    """Raises ValueError for an objective about tokens where none are streamed."""
    check_slo(measured.plan, slo)
    ok = [record for record in measured.requests if record.failure is None]
    duration = duration_s(measured)
    fills = [record.latency_s for record in measured.fills if record.failure is None]
    output_tokens, texts = sum(r.tokens for r in ok), sum(r.texts for r in ok)
    return Report(
        load=_in_words(measured.plan),
        ok=len(ok),
        failed=len(measured.requests) - len(ok),
        short=_short(measured.plan, ok),
        duration=duration,
        requests_per_s=len(ok) / duration,
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / duration,
        tokens_counted_by=_counted_by(ok),
        input_tokens=_input_tokens(ok),
        texts=texts,
        texts_per_s=texts / duration,
        end_to_end=spread(record.ended_s - record.started_s for record in ok),
        first_token=spread(first_token_s(record) for record in ok),
        between_tokens=spread(b - a for record in ok for a, b in pairwise(record.arrivals_s)),
        time_per_token=spread(time_per_token_s(record) for record in ok),
        goodput=None if slo is None else goodput(slo, measured.requests, duration),
        all_overlap=_all_overlap(measured),
        fill_mask_ok=len(fills),
        fill_mask_failed=len(measured.fills) - len(fills),
        fill_mask=spread(fills),
        failures=_failures(measured),
        left_out=sorted(measured.left_out),
        generator_cores=measured.generator_cpu_s / duration,
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report as `--json` writes it: the fields of `Report`, each `Spread` an object."""
    return asdict(report)


def check_slo(plan: Plan, slo: Slo | None) -> None:
    """Raises ValueError for an objective about tokens where none are streamed."""
    if slo is not None and slo.needs_stream and not plan.dialect.streamed:
        raise ValueError(
            f"{plan.dialect.path} answers in one piece: of the objectives, only e2e can be measured"
        )


def duration_s(measured: Measurement) -> float:
    """From the start of the first request to the end of the last."""
    return max(r.ended_s for r in measured.requests) - min(r.started_s for r in measured.requests)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the sorted `values` that at least `share` (0 to 1) of them do not exceed.

    A value that was really seen, not one between two (the nearest-rank method).
    """
    return values[max(0, math.ceil(share * len(values)) - 1)]


def spread(durations: Iterable[float | None]) -> Spread | None:
    """Of those that are not None; None where there are none."""
    values = sorted(value for value in durations if value is not None)
    if not values:
        return None
    return Spread(
        count=len(values),
        mean=math.fsum(values) / len(values),
        p50=percentile(values, 0.5),
        p95=percentile(values, 0.95),
        p99=percentile(values, 0.99),
        max=values[-1],
    )


def _in_words(plan: Plan) -> dict[str, Any]:
    """What was sent, for whoever reads the report later; no API key, no prompts."""
    dialect, open_loop = plan.dialect, plan.rate is not None
    return {
        "url": plan.url,
        "api": dialect.api,
        "path": dialect.path,
        "streamed": dialect.streamed,
        "model": dialect.model,
        "streams": None if open_loop else plan.streams,
        "rate": plan.rate,
        "burst": plan.burst if open_loop else None,
        "requests": plan.requests,
        "tokens": plan.tokens if dialect.generates else None,
        "batch": None if dialect.generates else plan.batch,
        "prompt_words": None if plan.prompt is not None or plan.prompts else plan.prompt_words,
        "rivals": plan.rivals,
        "fill_mask_every_ms": plan.fill_mask_every_ms,
        "warmup": plan.warmup,
        "seed": plan.seed,
    }


def _short(plan: Plan, ok: Sequence[RequestRecord]) -> int:
    """Tokens that cannot be counted cannot be missed."""
    countable = (r for r in ok if plan.dialect.generates and (r.counted or plan.dialect.streamed))
    return sum(record.tokens < record.asked_tokens for record in countable)


def _counted_by(ok: Sequence[RequestRecord]) -> str | None:
    usage = any(record.counted for record in ok)
    events = any(record.arrivals_s and not record.counted for record in ok)
    return " and ".join(name for name, seen in (("usage", usage), ("events", events)) if seen) or None


def _input_tokens(ok: Sequence[RequestRecord]) -> int | None:
    told = [record.prompt_tokens for record in ok if record.prompt_tokens is not None]
    return sum(told) if told else None


def _all_overlap(measured: Measurement) -> bool | None:
    wave = measured.requests[: measured.plan.streams]
    if measured.plan.rate is not None or not measured.plan.dialect.streamed or len(wave) < 2:
        return None
    if any(not record.arrivals_s for record in wave):
        return False
    return max(record.arrivals_s[0] for record in wave) < min(record.ended_s for record in wave)


def _failures(measured: Measurement) -> dict[str, FailureCount]:
    seen: dict[str, list[Failure]] = {}
    of_all = [record.failure for record in measured.requests] + [fill.failure for fill in measured.fills]
    for failure in of_all:
        if failure is not None:
            seen.setdefault(failure.kind, []).append(failure)
    return {kind: FailureCount(count=len(all_), first=all_[0].message) for kind, all_ in seen.items()}

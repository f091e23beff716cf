"""What a measurement says, as numbers and as a small table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from triptych_client.bench.load import Measurement, StreamRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How `count` durations lie, in seconds."""

    count: int
    p50: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All durations in seconds; a spread is None where nothing was measured.

    whole_stream: from the (planned) start of a stream to its end.
    first_token: from the (planned) start of a stream to its first token.
    duration: from the start of the first stream to the end of the last.
    between_tokens: from each token to the next of the same stream; its `max` is the longest that any stream
        stood still once it had begun.
    all_overlap: whether every stream that was started at the outset had its first token before the first of
        them ended, so that none waited for another to end. None in an open loop, and for a single stream.
    short: streams that ended well, but with fewer tokens than were asked for.
    failures: what went wrong, and how often; streams and fill-mask requests together.
    """

    ok: int
    failed: int
    short: int
    duration: float
    output_tokens: int
    output_tokens_per_s: float
    whole_stream: Spread | None
    first_token: Spread | None
    between_tokens: Spread | None
    all_overlap: bool | None
    fill_mask_ok: int
    fill_mask_failed: int
    fill_mask: Spread | None
    failures: dict[str, int]


def summarize(measured: Measurement) -> Report:
    """Failed streams count as failed and nowhere else, except for the time that they took."""
    ok = [record for record in measured.streams if record.failure is None]
    fills = [record.latency_s for record in measured.fills if record.failure is None]
    output_tokens = sum(record.tokens for record in ok)
    failures = [record.failure for record in measured.streams] + [record.failure for record in measured.fills]
    duration = max(s.ended_s for s in measured.streams) - min(s.started_s for s in measured.streams)
    return Report(
        ok=len(ok),
        failed=len(measured.streams) - len(ok),
        short=sum(record.tokens < measured.plan.tokens for record in ok),
        duration=duration,
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / duration,
        whole_stream=_spread(record.ended_s - record.started_s for record in ok),
        first_token=_spread(record.arrivals_s[0] - record.started_s for record in ok if record.arrivals_s),
        between_tokens=_spread(b - a for record in ok for a, b in pairwise(record.arrivals_s)),
        all_overlap=_all_overlap(measured),
        fill_mask_ok=len(fills),
        fill_mask_failed=len(measured.fills) - len(fills),
        fill_mask=_spread(fills),
        failures=dict(Counter(failure for failure in failures if failure is not None)),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the sorted `values` that at least `share` (0 to 1) of them do not exceed.

    A value that was really seen, not one between two (the nearest-rank method).
    """
    return values[max(0, math.ceil(share * len(values)) - 1)]


def table(report: Report) -> str:
    """For people; durations in milliseconds."""
    lines = [
        _line("streams", f"{report.ok} ok, {report.failed} failed, {report.short} shorter than asked"),
        _line(
            "output",
            f"{report.output_tokens_per_s:.1f} tok/s  "
            f"({report.output_tokens} tokens in {report.duration:.2f} s)",
        ),
        _line("overlap", _overlap_in_words(report.all_overlap)),
    ]
    if report.fill_mask is not None or report.fill_mask_failed:
        lines.append(_line("fill-mask", f"{report.fill_mask_ok} ok, {report.fill_mask_failed} failed"))
    lines += ["", f"{'ms':<16}{'p50':>10}{'p95':>10}{'max':>10}"]
    for name, spread in _spreads(report):
        if spread is not None:
            lines.append(
                f"{name:<16}" + "".join(f"{1000 * x:>10.1f}" for x in (spread.p50, spread.p95, spread.max))
            )
    lines += [f"{count} x {failure}" for failure, count in report.failures.items()]
    return "\n".join(lines)


def _spreads(report: Report) -> tuple[tuple[str, Spread | None], ...]:
    return (
        ("whole stream", report.whole_stream),
        ("first token", report.first_token),
        ("between tokens", report.between_tokens),
        ("fill-mask", report.fill_mask),
    )


def _line(name: str, text: str) -> str:
    return f"{name:<16}{text}"


def _overlap_in_words(all_overlap: bool | None) -> str:
    if all_overlap is None:
        return "not asked: it takes two streams in a closed loop"
    if all_overlap:
        return "every stream had its first token before the first one ended"
    return "NO: some stream had no token yet when the first one ended"


def _all_overlap(measured: Measurement) -> bool | None:
    wave: Sequence[StreamRecord] = measured.streams[: measured.plan.streams]
    if measured.plan.rate is not None or len(wave) < 2:
        return None
    if any(not record.arrivals_s for record in wave):
        return False
    return max(record.arrivals_s[0] for record in wave) < min(record.ended_s for record in wave)


def _spread(durations: Iterable[float]) -> Spread | None:
    values = sorted(durations)
    if not values:
        return None
    return Spread(
        count=len(values), p50=percentile(values, 0.5), p95=percentile(values, 0.95), max=values[-1]
    )

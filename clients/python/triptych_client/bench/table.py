"""A report for people. Durations in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from triptych_client.bench.report import Report, Spread

COLUMNS = ("mean", "p50", "p95", "p99", "max")
WIDTH = 16


def table(report: Report) -> str:
    return "\n".join([*_about(report), "", *_durations(report), *_failures(report)])


def _about(report: Report) -> Iterator[str]:
    yield _line("load", _load(report))
    yield _line("requests", _requests(report))
    if report.load["batch"] is not None:
        yield _line("texts", f"{report.texts_per_s:.1f} texts/s  ({report.texts} in {report.duration:.2f} s)")
    elif report.ok:
        yield _line("output", _output(report))
    if report.input_tokens is not None:
        yield _line("input", f"{report.input_tokens} tokens")
    if report.load["streamed"]:
        yield _line("overlap", _overlap(report.all_overlap))
    if report.goodput is not None:
        yield _line("goodput", _goodput(report))
    if report.fill_mask is not None or report.fill_mask_failed:
        yield _line("fill-mask", f"{report.fill_mask_ok} ok, {report.fill_mask_failed} failed")
    if report.left_out:
        yield _line("left out", f"{', '.join(report.left_out)}: the server refuses to know it")
    yield _line("load generator", f"{report.generator_cores:.3f} of a core")


def _durations(report: Report) -> Iterator[str]:
    yield f"{'ms':<{WIDTH}}" + "".join(f"{name:>10}" for name in COLUMNS)
    for name, spread in (
        ("end to end", report.end_to_end),
        ("first token", report.first_token),
        ("between tokens", report.between_tokens),
        ("time per token", report.time_per_token),
        ("fill-mask", report.fill_mask),
    ):
        if spread is not None:
            yield f"{name:<{WIDTH}}{_row(spread)}"


def _failures(report: Report) -> Iterator[str]:
    if report.failures:
        yield ""
    for kind, failure in report.failures.items():
        yield f"{failure.count} x {kind}: {failure.first}"


def _load(report: Report) -> str:
    load = report.load
    if load["rate"] is None:
        how = f"closed loop of {load['streams']}"
    else:
        burst = f" in bursts of {load['burst']}" if load["burst"] > 1 else ""
        how = f"open loop, {load['rate']:g} requests/s{burst}"
    model = "" if load["model"] is None else f", model {load['model']}"
    return f"{how}; POST {load['path']}{model}"


def _requests(report: Report) -> str:
    short = f", {report.short} shorter than asked" if report.load["tokens"] is not None else ""
    return f"{report.ok} ok, {report.failed} failed{short}; {report.requests_per_s:.2f} requests/s"


def _output(report: Report) -> str:
    if report.tokens_counted_by is None:
        return "tokens cannot be counted: the server does not tell"
    return (
        f"{report.output_tokens_per_s:.1f} tok/s  ({report.output_tokens} tokens in "
        f"{report.duration:.2f} s, counted by {report.tokens_counted_by})"
    )


def _goodput(report: Report) -> str:
    assert report.goodput is not None
    limits = asdict(report.goodput.slo).items()
    slo = ", ".join(f"{name} {value:g} ms" for name, value in limits if value is not None)
    share, met = report.goodput.share, report.goodput.met
    return f"{report.goodput.requests_per_s:.2f} requests/s  ({met}, {share:.1%}, met {slo})"


def _overlap(all_overlap: bool | None) -> str:
    if all_overlap is None:
        return "not asked: it takes two streams in a closed loop"
    if all_overlap:
        return "every stream had its first token before the first one ended"
    return "NO: some stream had no token yet when the first one ended"


def _row(spread: Spread) -> str:
    return "".join(f"{1000 * getattr(spread, name):>10.1f}" for name in COLUMNS)


def _line(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}{text}"

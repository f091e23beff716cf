"""What the load generator's report says of time, on made-up clocks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych_client.bench import (
    Failure,
    FillRecord,
    Measurement,
    Plan,
    RequestRecord,
    Slo,
    as_json,
    percentile,
    summarize,
    table,
    tei_embed,
    tgi,
    tgi_whole,
)

OOPS = Failure(kind="ServerFailed (500)", message="oops")


def record(*arrivals_s: float, ended_s: float, started_s: float = 0.0, **fields: Any) -> RequestRecord:
    counted = {"tokens": len(arrivals_s), "asked_tokens": 2, **fields}
    return RequestRecord(started_s=started_s, arrivals_s=list(arrivals_s), ended_s=ended_s, **counted)


def measurement(*records: RequestRecord, fills: tuple[FillRecord, ...] = (), **plan: Any) -> Measurement:
    settings = {"dialect": tgi(), "streams": len(records), "requests": len(records), "tokens": 2, **plan}
    return Measurement(plan=Plan(url="http://x", **settings), requests=records, fills=fills)


def test_durations_are_those_of_the_requests_that_ended_well() -> None:
    report = summarize(
        measurement(
            record(1.0, 1.5, 4.5, ended_s=5.0),
            record(2.0, started_s=1.0, ended_s=3.0),
            record(9.0, 10.0, ended_s=10.0, failure=OOPS),
            fills=(FillRecord(latency_s=0.25), FillRecord(latency_s=9.0, failure=OOPS)),
        )
    )
    assert (report.ok, report.failed, report.short) == (2, 1, 1)
    assert (report.duration, report.output_tokens, report.output_tokens_per_s) == (10.0, 4, 0.4)
    assert report.requests_per_s == 0.2
    assert report.first_token is not None
    assert (report.first_token.p50, report.first_token.max) == (1.0, 1.0)
    gaps = report.between_tokens
    assert gaps is not None
    assert (gaps.count, gaps.mean, gaps.p50, gaps.p99, gaps.max) == (2, 1.75, 0.5, 3.0, 3.0)
    assert report.time_per_token is not None
    assert (report.time_per_token.count, report.time_per_token.max) == (1, 1.75)
    assert report.end_to_end is not None
    assert (report.end_to_end.p50, report.end_to_end.max) == (2.0, 5.0)
    assert report.fill_mask is not None
    assert (report.fill_mask_ok, report.fill_mask_failed, report.fill_mask.p95) == (1, 1, 0.25)
    assert {kind: (seen.count, seen.first) for kind, seen in report.failures.items()} == {
        "ServerFailed (500)": (2, "oops")
    }


def test_time_per_token_goes_by_the_servers_count_where_events_hold_several() -> None:
    report = summarize(measurement(record(1.0, 3.0, ended_s=3.0, tokens=5, counted=True)))
    assert report.time_per_token is not None
    assert report.time_per_token.max == 0.5


@pytest.mark.parametrize(
    ("counted", "said"), [([True, True], "usage"), ([True, False], "usage and events"), ([False], "events")]
)
def test_the_report_says_who_counted_the_tokens(counted: list[bool], said: str) -> None:
    report = summarize(measurement(*(record(1.0, ended_s=2.0, counted=each) for each in counted)))
    assert report.tokens_counted_by == said
    assert f"counted by {said})" in table(report)


def test_tokens_that_nobody_counts_are_not_called_missing() -> None:
    whole = RequestRecord(started_s=0.0, ended_s=1.0, asked_tokens=2)
    report = summarize(measurement(whole, dialect=tgi_whole()))
    assert (report.short, report.tokens_counted_by, report.first_token) == (0, None, None)
    assert "tokens cannot be counted: the server does not tell" in table(report)


def test_texts_are_counted_for_encoders() -> None:
    embedded = RequestRecord(started_s=0.0, ended_s=2.0, texts=8, prompt_tokens=40)
    report = summarize(measurement(embedded, embedded, dialect=tei_embed(), batch=8))
    assert (report.texts, report.texts_per_s, report.input_tokens) == (16, 8.0, 80)
    printed = table(report)
    assert "8.0 texts/s  (16 in 2.00 s)" in printed
    assert "tok/s" not in printed


@pytest.mark.parametrize(
    ("second_began_s", "overlap"), [(1.9, True), (2.1, False)], ids=["side by side", "one after the other"]
)
def test_overlap_means_that_no_stream_waited_for_another_to_end(second_began_s: float, overlap: bool) -> None:
    report = summarize(measurement(record(0.1, ended_s=2.0), record(second_began_s, ended_s=4.0)))
    assert report.all_overlap is overlap
    assert ("every stream had its first token" in table(report)) is overlap


def test_a_stream_without_a_token_overlaps_with_none() -> None:
    assert summarize(measurement(record(0.1, ended_s=2.0), record(ended_s=2.0))).all_overlap is False


def test_overlap_is_asked_of_the_first_wave_of_a_closed_loop_only() -> None:
    late = record(9.0, started_s=8.0, ended_s=10.0)
    pair = (record(0.1, ended_s=2.0), record(0.2, ended_s=2.0))
    assert summarize(measurement(*pair, late, streams=2)).all_overlap is True
    assert summarize(measurement(*pair, rate=4.0)).all_overlap is None
    assert summarize(measurement(late)).all_overlap is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_was_seen_and_is_not_exceeded_by_its_share(values: list[float], share: float) -> None:
    values.sort()
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) * (1 - 1e-12)


# Goodput.


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        ("ttft=500", 2),
        ("ttft=499", 1),
        ("itl=1000", 2),
        ("itl=999", 1),
        ("tpot=750", 2),
        ("tpot=749", 1),
        ("e2e=2500", 2),
        ("e2e=2499", 1),
        ("ttft=499, itl=1000", 1),
        ("ttft=1", 0),
    ],
)
def test_goodput_counts_the_requests_that_kept_every_promise(slo: str, met: int) -> None:
    slow, quick = record(0.5, 1.0, 2.0, ended_s=2.5), record(0.1, 0.2, ended_s=0.3)
    failed = record(0.1, ended_s=0.2, failure=OOPS)
    report = summarize(measurement(slow, quick, failed), Slo.parse(slo))
    assert report.goodput is not None
    assert (report.goodput.met, report.goodput.share) == (met, met / 3)
    assert report.goodput.requests_per_s == met / 2.5
    assert f"{met / 3:.1%}" in table(report)


def test_a_stream_without_a_token_keeps_no_promise_about_tokens() -> None:
    assert Slo(itl=100).met_by(record(ended_s=0.1)) is False
    assert Slo(e2e=100).met_by(record(ended_s=0.1)) is True


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ttf=1", "'ttf' is none of ttft, itl, tpot, e2e"),
        ("ttft", "'ttft': expected a number of milliseconds after ="),
        ("ttft=soon", "'ttft=soon': expected a number"),
        ("itl=0", "0 is not a positive number of milliseconds"),
        ("itl=nan", "nan is not a positive number"),
        ("itl=1,", "'' is none of"),
    ],
)
def test_a_mistaken_objective_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Slo.parse(text)


def test_an_objective_about_tokens_needs_a_stream() -> None:
    measured = measurement(record(ended_s=1.0), dialect=tei_embed())
    with pytest.raises(ValueError, match="only e2e can be measured"):
        summarize(measured, Slo(ttft=1))
    assert summarize(measured, Slo(e2e=1000)).goodput is not None


# As JSON, and for people.


def test_a_report_is_json_and_holds_no_key() -> None:
    measured = measurement(record(1.0, 1.5, ended_s=2.0), api_key="secret", prompt="hi")
    told = json.dumps(as_json(summarize(measured, Slo(ttft=2000))))
    assert "secret" not in told
    report = json.loads(told)
    assert report["first_token"] == {
        "count": 1, "mean": 1.0, "p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0,
    }  # fmt: skip
    assert (report["load"]["api"], report["load"]["streams"]) == ("generate_stream", 1)
    assert report["goodput"]["share"] == 1.0
    assert report["failures"] == {}


def test_the_table_names_what_failed_and_what_was_left_out() -> None:
    measured = measurement(record(ended_s=1.0, failure=OOPS), rate=2.0, burst=3)
    measured = Measurement(plan=measured.plan, requests=measured.requests, left_out=frozenset({"ignore_eos"}))
    printed = table(summarize(measured))
    assert "open loop, 2 requests/s in bursts of 3; POST /generate_stream" in printed
    assert "0 ok, 1 failed" in printed
    assert "ignore_eos: the server refuses to know it" in printed
    assert "1 x ServerFailed (500): oops" in printed

"""What the tables say of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.peers.records import FIGURES, Figure, Record, Results, Subject
from tests.benchmarks.peers.table import render, times_faster

RATE, TIME = Figure(name="rate", heading="rate"), Figure(name="time", heading="time", is_time=True)


def record(name: str, *, ours: bool = False, **figures: float) -> Record:
    return Record(
        subject=Subject.DECODER, key=f"decoder/{name}", label=name, ours=ours, figures=dict(figures)
    )


def rows(markdown: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]


def test_more_tokens_a_second_and_fewer_seconds_are_both_faster() -> None:
    ours, theirs = record("ours", ours=True, rate=300.0, time=0.5), record("peer", rate=100.0, time=1.0)
    assert times_faster(RATE, ours, theirs) == 3.0
    assert times_faster(TIME, ours, theirs) == 2.0


@pytest.mark.parametrize("theirs", [record("peer"), record("peer", rate=0.0)])
def test_what_was_not_measured_has_no_ratio(theirs: Record) -> None:
    assert times_faster(RATE, record("ours", ours=True, rate=300.0), theirs) is None


def test_each_row_of_ours_is_compared_with_each_peer() -> None:
    records = [
        record("ours a", ours=True, decode_1=90.0, start_s=2.0),
        record("ours b", ours=True, decode_1=180.0),
        record("peer", decode_1=60.0, start_s=3.0),
    ]
    table = rows(render(Results(machine={"processor": "one"}, records=records)))
    start = [figure.name for figure in FIGURES[Subject.DECODER]].index("start_s") + 1
    assert [
        (row[0], row[1], row[start]) for row in table if row[0] in ("peer", "**ours a**", "**ours b**")
    ] == [
        ("peer", "60.0", "3.0 s"),
        ("**ours a**", "90.0", "2.0 s"),
        ("**ours b**", "180", "-"),
        ("peer", "1.50 x", "1.50 x"),
        ("peer", "3.00 x", "-"),
    ]


def test_who_failed_is_named_with_the_reason_and_not_compared() -> None:
    failed = record("peer")
    failed.failures.append("offline: no compiler")
    printed = render(Results(machine={}, records=[record("ours", ours=True, decode_1=1.0), failed]))
    assert "- peer: offline: no compiler" in printed
    assert [row[1] for row in rows(printed) if row[0] == "peer"] == ["failed"]


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    kept = record("peer", decode_1=1.5)
    kept.versions["torch"] = "2.13.0"
    results = Results(machine={"threads": "2"}, records=[kept])
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results


def test_a_contender_that_is_measured_again_has_one_row() -> None:
    results = Results(machine={}, records=[record("peer", decode_1=1.0), record("other")])
    results.start(record("peer"))
    assert [one.key for one in results.records] == ["decoder/other", "decoder/peer"]


@pytest.mark.parametrize("content", ["{}", '{"machine": {}, "records": [{"key": 1}]}', "[]", "no JSON"])
def test_another_file_is_refused_by_its_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json"):
        Results.read(tmp_path / "results.json")

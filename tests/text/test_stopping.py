"""A stop string ends the text and never shows; how the text was cut makes no difference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.stopping import StopStrings

LETTERS = st.text(alphabet="ab", max_size=12)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    """All the text that may be sent, and the stop string that ended it."""
    watch = StopStrings(stops)
    sent = ""
    for piece in pieces:
        result = watch.push(piece)
        sent += result.text
        if result.stopped_by is not None:
            return sent, result.stopped_by
    return sent + watch.flush(), None


def by_definition(stops: list[str], text: str) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(stops=STOPS, pieces=st.lists(LETTERS, max_size=8))
@settings(max_examples=500, deadline=None)
def test_however_a_text_is_cut_the_result_is_that_of_the_whole(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == by_definition(stops, "".join(pieces))


@given(stops=STOPS, early=LETTERS, late=LETTERS)
@settings(max_examples=300, deadline=None)
def test_a_stop_string_that_is_complete_before_the_text_may_end_is_text(
    stops: list[str], early: str, late: str
) -> None:
    watch = StopStrings(stops)
    sent = watch.push(early, may_end=False).text
    result = watch.push(late)
    sent += result.text + watch.flush()
    text, stopped_by = early + late, result.stopped_by
    ends = [end for end in range(len(early) + 1, len(text) + 1) if text[:end].endswith(tuple(stops))]
    if stops and ends:
        assert stopped_by == max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        assert sent == text[: ends[0]].removesuffix(stopped_by)
    else:
        assert (sent, stopped_by) == (text, None)


@given(stops=STOPS, text=st.text(alphabet="ab", max_size=30))
@settings(max_examples=300, deadline=None)
def test_what_is_held_back_is_exactly_what_may_yet_become_a_stop_string(stops: list[str], text: str) -> None:
    watch = StopStrings(stops)
    sent = ""
    for end, character in enumerate(text, start=1):
        result = watch.push(character)
        sent += result.text
        if result.stopped_by is not None:
            return
        beginnings = (stop[:size] for stop in stops for size in range(1, len(stop)))
        held = max((len(part) for part in beginnings if text[:end].endswith(part)), default=0)
        assert sent == text[: end - held]


def test_a_stop_string_may_span_pieces_and_no_part_of_it_is_sent() -> None:
    watch = StopStrings(["\nUser:"])
    assert watch.push("Hi.\nUs").text == "Hi."
    result = watch.push("er: and more")
    assert (result.text, result.stopped_by) == ("", "\nUser:")


def test_a_false_alarm_is_sent_after_all() -> None:
    watch = StopStrings(["END"])
    assert watch.push("the EN").text == "the "
    assert watch.push("tity").text == "ENtity"


def test_the_first_to_be_complete_wins() -> None:
    assert run(["abcd", "bc"], ["abcd"]) == ("a", "bc")


def test_of_two_that_end_together_the_longest_wins() -> None:
    assert run(["c", "abc", "bc"], ["xabc"]) == ("x", "abc")


def test_after_the_end_nothing_more_comes() -> None:
    watch = StopStrings(["x"])
    watch.push("ax")
    assert watch.push("b").text == ""
    assert watch.push("b").stopped_by == "x"
    assert watch.flush() == ""


def test_without_stop_strings_everything_passes_at_once() -> None:
    assert StopStrings([]).push("anything").text == "anything"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])


def test_a_long_stop_string_that_keeps_almost_matching_costs_no_more() -> None:
    stop = "a" * 500 + "b"
    text = "a" * 20_000
    assert run([stop], list(text)) == (text, None)

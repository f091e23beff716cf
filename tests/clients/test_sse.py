from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych_client._sse import Event, EventDecoder

FRAGMENTS = [
    b"data: ",
    b"data:",
    b"data",
    b"event: e",
    b"event:",
    b"id: 7",
    b"id:",
    b": a comment",
    b"retry: 9",
]
FRAGMENTS += [b"\n", b"\r", b"\r\n", b"\n\n", b"x", b" ", b":", "né 🙂".encode(), b"\xef\xbb\xbf", b"\xff"]

streams_of_bytes = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join)


def decode(*chunks: bytes) -> list[Event]:
    decoder = EventDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def interpret(stream: bytes) -> list[Event]:
    """The standard's algorithm on the whole stream, as plainly as it can be written."""
    events: list[Event] = []
    data: list[str] = []
    name = last_id = ""
    lines = re.split(b"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in [line.decode(errors="replace") for line in lines[:-1]]:
        if not line:
            if data:
                events.append(Event(data="\n".join(data), name=name or "message", id=last_id))
            data, name = [], ""
            continue
        field, _, value = line.partition(":")
        value = value[1:] if value[:1] == " " else value
        if field == "data":
            data.append(value)
        name = value if field == "event" else name
        last_id = value if field == "id" else last_id
    return events


@given(streams_of_bytes, st.lists(st.integers(0, 200), max_size=12))
def test_wherever_the_network_cuts_the_events_are_the_same(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert decode(*pieces) == interpret(stream)


@given(streams_of_bytes)
def test_a_stream_may_come_byte_by_byte(stream: bytes) -> None:
    assert decode(*(bytes([byte]) for byte in stream)) == interpret(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_may_end_in_any_of_three_ways(end: bytes) -> None:
    assert decode(b"data: a" + end + end + b"data: b" + end + end) == [Event(data="a"), Event(data="b")]


def test_a_line_end_that_is_cut_in_two_ends_one_line() -> None:
    assert decode(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [Event(data="a\nb")]


def test_lines_of_data_are_joined() -> None:
    assert decode(b"data: a\ndata\ndata:b\n\n") == [Event(data="a\n\nb")]


def test_comments_heartbeats_and_unknown_fields_say_nothing() -> None:
    assert decode(b": keep-alive\n\n", b"retry: 10\nfuture: x\n\n", b"data: a\n\n") == [Event(data="a")]


def test_an_id_holds_until_the_next_and_a_name_for_one_event() -> None:
    events = decode(b"id: s:1\nevent: ping\ndata: a\n\ndata: b\n\n")
    assert events == [Event(data="a", name="ping", id="s:1"), Event(data="b", id="s:1")]


def test_a_character_may_be_cut() -> None:
    assert decode(b"data: \xf0\x9f", b"\x99\x82\n\n") == [Event(data="🙂")]


def test_what_no_blank_line_ends_is_no_event() -> None:
    assert decode(b"data: whole\n\ndata: cut\n") == [Event(data="whole")]

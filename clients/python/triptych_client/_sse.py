"""Server-sent events: bytes in, events out, wherever the network cut them.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`id` is the last one that the stream named, as the standard has it: it stays until the next."""

    data: str
    name: str = "message"
    id: str = ""


class EventDecoder:
    """Feed it chunks in order. An event comes out once the blank line that ends it has come in.

    Lines may end in LF, CR or CRLF. Comments are dropped; the lines of a multi-line `data` are joined by LF.
    What follows the last blank line is no event, as the standard demands: a broken stream ends in silence.
    """

    def __init__(self) -> None:
        self._rest = b""  # a line that has not ended yet
        self._after_cr = False  # the last chunk ended in CR: an LF that follows belongs to it
        self._at_start = True
        self._data: list[str] = []
        self._name = ""
        self._id = ""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        for line in self._lines(chunk):
            if line:
                self._take(line.decode("utf-8", errors="replace"))
            elif event := self._dispatch():
                yield event

    def _lines(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        text = self._rest + chunk
        if self._at_start:
            if BYTE_ORDER_MARK.startswith(text):  # it may be cut as well
                self._rest = text
                return []
            self._at_start = False
            text = text.removeprefix(BYTE_ORDER_MARK)
        self._after_cr = self._after_cr or text.endswith(b"\r")
        *lines, self._rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return lines

    def _take(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name = [], ""
        return Event(data="\n".join(data), name=name or "message", id=self._id) if data else None

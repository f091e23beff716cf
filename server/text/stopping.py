"""Stop strings: the text ends before them, and no part of one is ever seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class StopResult(NamedTuple):
    """`text` may be sent. `stopped_by` is the stop string that came next, if one did: nothing follows it."""

    text: str
    stopped_by: str | None = None


class StopStrings:
    """Feed it text in pieces; however it is cut, the same text comes out.

    The first stop string to be complete wins, and the text ends where it begins; of several that end with the
    same character, the longest wins. Text that may yet become one is held back. The work for a character does
    not depend on how much is held.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` may be empty, but none of them may be: raises ValueError."""
        if not all(stops):
            raise ValueError("a stop string cannot be empty")
        self._matchers = [_Matcher(stop) for stop in dict.fromkeys(stops)]
        self._held = ""
        self._stopped_by: str | None = None

    def push(self, text: str, *, may_end: bool = True) -> StopResult:
        """What is now certain to belong to the answer. After a stop string, nothing does.

        Where it may not end yet, a stop string that is complete with this text is text like any other.
        """
        if not self._matchers:
            return StopResult(text)
        if self._stopped_by is not None:
            return StopResult(text="", stopped_by=self._stopped_by)
        for position, character in enumerate(text):
            complete = [matcher.stop for matcher in self._matchers if matcher.take(character)]
            if complete and may_end:
                return self._end(self._held + text[: position + 1], max(complete, key=len))
        text = self._held + text
        safe = len(text) - max((matcher.matched for matcher in self._matchers), default=0)
        self._held = text[safe:]
        return StopResult(text=text[:safe])

    def flush(self) -> str:
        """What was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _end(self, text: str, stop: str) -> StopResult:
        self._stopped_by, self._held = stop, ""
        return StopResult(text=text.removesuffix(stop), stopped_by=stop)


class _Matcher:
    """How much of one stop string the text ends with (Knuth, Morris & Pratt 1977)."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._shorter = _borders(stop)

    def take(self, character: str) -> bool:
        """Whether the stop string is complete with this character."""
        if self.matched == len(self.stop):
            self.matched = self._shorter[-1]
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._shorter[self.matched - 1]
        self.matched += self.stop[self.matched] == character
        return self.matched == len(self.stop)


def _borders(stop: str) -> list[int]:
    """For each prefix, the length of the longest shorter prefix that it ends with."""
    borders = [0]
    length = 0
    for character in stop[1:]:
        while length and stop[length] != character:
            length = borders[length - 1]
        length += stop[length] == character
        borders.append(length)
    return borders

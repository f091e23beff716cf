"""How much may wait, and when to come back if that is too much."""

from __future__ import annotations

from collections import deque

from server.errors import Overloaded

WINDOW_S = 30.0


class Admission:
    """At most `limit` requests at a time. The rate at which they finish tells the next one when to return."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._present = 0
        self._finished = deque[float]()  # when, over the last `WINDOW_S`

    def enter(self, now: float) -> None:
        """Raises Overloaded when the place is full. Every `enter` needs its `leave`."""
        if self._present >= self._limit:
            raise Overloaded(self._retry_after(now))
        self._present += 1

    def leave(self, now: float) -> None:
        self._present -= 1
        self._finished.append(now)
        self._forget(now)

    def _retry_after(self, now: float) -> float:
        """Seconds until one place is likely free: the mean gap between requests that finished lately."""
        self._forget(now)
        return min(WINDOW_S, WINDOW_S / len(self._finished)) if self._finished else WINDOW_S / 2

    def _forget(self, now: float) -> None:
        while self._finished and self._finished[0] < now - WINDOW_S:
            self._finished.popleft()

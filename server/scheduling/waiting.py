"""The queue: highest priority first, then the tenant that was served least, then who came first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import heappop, heappush, heapreplace
from typing import Generic, Protocol, TypeVar

from server.scheduling.fairness import Shares


class Request(Protocol):
    """What a queue wants to know; sequences and passages are such."""

    @property
    def id(self) -> int: ...
    @property
    def tenant(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...


Item = TypeVar("Item", bound=Request)
_Line = tuple[int, str]  # priority negated, tenant
_Place = tuple[int, float, int, str]  # of a line: priority negated, served, arrival of its first, tenant


class WaitingLine(Generic[Item]):
    """One line for each priority and tenant, each in order of arrival; a heap tells whose turn it is.

    Counters only grow, so a line's place in the heap may only be too early: it is put right when it comes up.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._items = dict[int, tuple[int, Item]]()  # by id: when it came, and what it is
        self._lines = dict[_Line, list[tuple[int, int]]]()  # heaps of (arrival, id), some of which have left
        self._requests = Counter[_Line]()
        self._tokens = Counter[_Line]()
        self._order = list[_Place]()
        self._places = dict[_Line, _Place]()  # the one entry of each line in `_order` that counts

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._items

    def join(self, item: Item, arrival: int) -> None:
        """`arrival` is its place among those of its tenant and priority: one who left may come back to it."""
        line = (-item.priority, item.tenant)
        self._items[item.id] = (arrival, item)
        self._requests[line] += 1
        self._tokens[line] += item.num_tokens
        heappush(self._lines.setdefault(line, []), (arrival, item.id))
        if line not in self._places or arrival < self._places[line][2]:
            self._place(line, arrival)

    def leave(self, id_: int) -> Item | None:
        """Take it out, wherever it stands; None if it is not there."""
        _, item = self._items.pop(id_, (0, None))
        if item is not None:
            line = (-item.priority, item.tenant)
            self._requests[line] -= 1
            self._tokens[line] -= item.num_tokens
            if not self._requests[line]:
                del self._requests[line], self._tokens[line]
        return item

    def tokens_before(self, newcomer: Request) -> int:
        """How many tokens would be served before `newcomer`, if it joined now."""
        return _before(newcomer, self._tokens, size=newcomer.num_tokens)

    def requests_before(self, newcomer: Request) -> int:
        """How many requests would be served before `newcomer`, if it joined now."""
        return _before(newcomer, self._requests, size=1)

    def first(self) -> Item | None:
        """Whose turn it is; it stays in the queue."""
        while self._order:
            place = self._order[0]
            line = (place[0], place[3])
            head = self._head(line) if self._places.get(line) == place else None
            if head is None:
                self._drop(place)
                continue
            current = (place[0], self._shares.served(place[3]), head[0], place[3])
            if current == place:
                return self._items[head[1]][1]
            self._places[line] = current
            heapreplace(self._order, current)
        return None

    def _place(self, line: _Line, arrival: int) -> None:
        place = (line[0], self._shares.served(line[1]), arrival, line[1])
        self._places[line] = place
        heappush(self._order, place)

    def _head(self, line: _Line) -> tuple[int, int] | None:
        """The first of a line that has not left, nor left and come back at another place."""
        heap = self._lines[line]
        while heap and self._items.get(heap[0][1], (None,))[0] != heap[0][0]:
            heappop(heap)
        return heap[0] if heap else None

    def _drop(self, place: _Place) -> None:
        """Its line is empty, or has another entry by now."""
        heappop(self._order)
        line = (place[0], place[3])
        if self._places.get(line) == place:
            del self._places[line]
            del self._lines[line]


def _before(newcomer: Request, totals: Mapping[_Line, int], *, size: int) -> int:
    """All of higher priority, all of its own tenant, and of each other tenant as many as of its own.

    `size` is what `newcomer` adds to its own line.
    """
    line = (-newcomer.priority, newcomer.tenant)
    own = totals.get(line, 0)
    higher = sum(total for (priority, _), total in totals.items() if priority < line[0])
    others = sum(
        min(total, own + size)
        for (priority, tenant), total in totals.items()
        if priority == line[0] and tenant != newcomer.tenant
    )
    return higher + own + others

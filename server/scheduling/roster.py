"""Where each sequence of a decoder stands: in the queue, in a seat, or waiting for what another computes.

Every move between these is one method here, so that seats, blocks, shares and the queue always agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import count

from server.scheduling.blocks import BlockPool
from server.scheduling.fairness import PROMPT_WEIGHT, Shares
from server.scheduling.holdings import Holdings
from server.scheduling.seats import Seats
from server.scheduling.sequence import Sequence
from server.scheduling.waiting import WaitingLine


class Roster:
    """All sequences that are not finished; those that run have one of `max_sequences` seats."""

    def __init__(self, blocks: BlockPool, *, max_sequences: int) -> None:
        self.preemptions = 0
        self.cached_tokens = 0  # of prompts, found in the cache
        self.shares = Shares()
        self.holdings = Holdings(blocks)
        self._block_size = blocks.block_size
        self.seats = Seats(max_sequences, self.shares, blocks)
        self.waiting = WaitingLine[Sequence](self.shares)
        self._live = dict[int, Sequence]()  # by id
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._live

    @property
    def rows(self) -> list[Sequence]:
        """Of streams: those that are one token behind."""
        return [sequence for sequence in self.seats if sequence.decoding]

    @property
    def behind(self) -> list[Sequence]:
        """Those in seats with prompts, or texts to compute again, still to be read."""
        return [sequence for sequence in self.seats if sequence.pending > 1]

    def join(self, sequence: Sequence) -> None:
        """At the end of its line."""
        sequence.arrival = next(self._arrivals)
        self._live[sequence.id] = sequence
        self.shares.join(sequence.tenant)
        self.waiting.join(sequence, sequence.arrival)

    def leave(self, id_: int) -> Sequence | None:
        """For good, from wherever it is; None where it is unknown."""
        sequence = self._live.pop(id_, None)
        if sequence is None:
            return None
        if id_ in self.seats:
            self._stand(sequence)
        self.waiting.leave(id_)
        self.shares.leave(sequence.tenant)
        return sequence

    def rank(self, sequence: Sequence) -> tuple[int, float, int]:
        """Whose is the least comes first, in a seat or not."""
        return (-sequence.priority, self.shares.served(sequence.tenant), sequence.arrival)

    def next_head(self) -> Sequence | None:
        """The first in line for whom it is worth to start now; those before wait for another's prefix."""
        while (head := self.waiting.first()) is not None:
            if not self.holdings.waits(head, len(self.holdings.find(head))):
                return head
            self.waiting.leave(head.id)
        return None

    def seats_short(self, newcomer: Sequence) -> int:
        """How many seats must become free until `newcomer`, if it joined now, has one."""
        before = self.waiting.requests_before(newcomer)
        return max(0, before + 1 - self.seats.open_to(newcomer.priority))

    @property
    def hungry(self) -> bool:
        """Whether anybody could use more than the rows of streams: has a seat, or would get one."""
        return bool(self.behind) or self._could_start() is not None

    @property
    def reading(self) -> dict[str, int]:
        """Tokens that each tenant has still to read, of those with seats and of who would get the next.

        Only of tenants that were served no more than those whose streams run, before these very prompts.
        """
        reading, charged = Counter[str](), Counter[str]()
        for sequence in self.behind:
            reading[sequence.tenant] += sequence.pending
            charged[sequence.tenant] += len(sequence.source) + sequence.prompt_length
        head = self._could_start()
        if head is not None:
            reading[head.tenant] += head.num_tokens - len(self.holdings.find(head)) * self._block_size
        least = min((self.shares.served(row.tenant) for row in self.rows), default=0.0)
        served = {tenant: self.shares.served(tenant) - PROMPT_WEIGHT * charged[tenant] for tenant in reading}
        return {tenant: tokens for tenant, tokens in reading.items() if served[tenant] <= least}

    def admit(self, sequence: Sequence) -> list[Sequence] | None:
        """Give it a seat, blocks for its source, and what the cache has of its text, if all its tokens fit.

        Returns who was preempted for it; None where it has to go on waiting.
        """
        found = self.holdings.find(sequence)
        victims = self._victims(sequence, found)
        if victims is None:
            return None
        for victim in victims:
            self.preempt(victim)
        self.waiting.leave(sequence.id)
        self.seats.sit(sequence)
        self.holdings.begin(sequence, found)
        if sequence.cached is None:
            self._note_first_seat(sequence)
        return victims

    def preempt(self, sequence: Sequence) -> None:
        """Back into the queue, at its old place; what it computed stays in the cache while there is room.

        Branches of a beam search are forgotten: nothing of them has been said.
        """
        self.preemptions += 1
        self._stand(sequence)
        sequence.computed = 0
        sequence.search = None
        self.waiting.join(sequence, sequence.arrival)

    def remember(self, sequence: Sequence, *, since: int) -> None:
        """Its tokens from `since` up to `computed` can be found; who waited for them is in line again."""
        self._rejoin(self.holdings.remember(sequence, since))

    def _could_start(self) -> Sequence | None:
        """The first in line, if it would get a seat and all its blocks now."""
        head = self.waiting.first()
        if head is None or self.seats.make_way(head) is None:  # no need to ask the cache then
            return None
        return head if self._victims(head, self.holdings.find(head)) is not None else None

    def _victims(self, sequence: Sequence, found: list[int]) -> list[Sequence] | None:
        missing = self.holdings.missing(sequence, found)
        return self.seats.make_way(sequence, missing_blocks=missing, found=found)

    def _note_first_seat(self, sequence: Sequence) -> None:
        """A prompt is counted and charged once, however often it is preempted."""
        sequence.cached = sequence.computed
        self.cached_tokens += sequence.computed
        self.shares.charge(sequence.tenant, PROMPT_WEIGHT * (len(sequence.source) + sequence.pending))

    def _stand(self, sequence: Sequence) -> None:
        self.seats.stand(sequence)
        self._rejoin(self.holdings.release(sequence))

    def _rejoin(self, waiters: Iterable[Sequence]) -> None:
        for sequence in waiters:
            if sequence.id in self._live:
                self.waiting.join(sequence, sequence.arrival)

"""The sequences that run, and who has to stand up for whom.

Somebody always keeps running: the first to have come, of the highest priority. Nobody takes a seat from
another tenant of the same priority unless that leaves the two closer to equal, so that no two can take it
from each other in turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq

from server.scheduling.blocks import BlockPool
from server.scheduling.fairness import Shares
from server.scheduling.sequence import Sequence


class Seats:
    """`capacity` of them."""

    def __init__(self, capacity: int, shares: Shares, blocks: BlockPool) -> None:
        self.capacity = capacity
        self._shares = shares
        self._blocks = blocks
        self._taken = dict[int, Sequence]()  # by id
        self._by_tenant = Counter[str]()

    def __len__(self) -> int:
        return len(self._taken)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._taken.values())

    def __contains__(self, id_: int) -> bool:
        return id_ in self._taken

    @property
    def num_tenants(self) -> int:
        """Tenants with at least one."""
        return len(self._by_tenant)

    @property
    def full(self) -> bool:
        return len(self._taken) >= self.capacity

    def open_to(self, priority: int) -> int:
        """How many are free, or held by those of lower priority, who would stand up."""
        return self.capacity - sum(one.priority >= priority for one in self._taken.values())

    def sit(self, sequence: Sequence) -> None:
        self._taken[sequence.id] = sequence
        self._by_tenant[sequence.tenant] += 1

    def stand(self, sequence: Sequence) -> None:
        del self._taken[sequence.id]
        self._by_tenant[sequence.tenant] -= 1
        if not self._by_tenant[sequence.tenant]:
            del self._by_tenant[sequence.tenant]

    def last(self) -> Sequence:
        """Who goes first when blocks run out: of the lowest priority, of the tenant with most seats, the
        youngest."""
        return min(
            self._taken.values(), key=lambda one: (one.priority, -self._by_tenant[one.tenant], -one.arrival)
        )

    def make_way(
        self, sequence: Sequence, *, missing_blocks: int = 0, found: Seq[int] = ()
    ) -> list[Sequence] | None:
        """Who must stand up so that `sequence` gets a seat and `missing_blocks` more than are free.

        Blocks that it `found` are no gain: it will hold them itself. Empty where nobody must stand up; None,
        and nobody does, where those who must yield to it are not enough.
        """
        victims, given = list[Sequence](), Counter[int]()
        seated = Counter(self._by_tenant)
        candidates = list(self._taken.values())
        kept = frozenset(found)
        while (self.full and not victims) or missing_blocks > 0:
            victim = self._next_victim(candidates, sequence, seated)
            if victim is None:
                return None
            candidates.remove(victim)
            victims.append(victim)
            seated[victim.tenant] -= 1
            given.update(victim.held)
            missing_blocks -= self._blocks.count_freed(set(victim.held) - kept, given)
        return victims

    def _next_victim(
        self, candidates: list[Sequence], sequence: Sequence, seated: Counter[str]
    ) -> Sequence | None:
        if not candidates:
            return None
        weakest = min(candidates, key=lambda one: (one.priority, -seated[one.tenant], -one.arrival))
        if weakest.priority != sequence.priority:
            return weakest if weakest.priority < sequence.priority else None
        return weakest if self._owes(weakest.tenant, sequence.tenant, seated) else None

    def _owes(self, holder: str, claimant: str, seated: Counter[str]) -> bool:
        """Whether one who has less than a fair share of seats, and was served less, may have one of these."""
        fair = self.capacity / self._shares.num_tenants
        return (
            seated[claimant] < fair
            and seated[holder] >= seated[claimant] + 2
            and self._shares.served(claimant) <= self._shares.served(holder)
        )

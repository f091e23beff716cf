"""Fair shares between tenants: whoever has been given least is served first.

Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models", OSDI, arXiv
2401.00588): each tenant's counter grows by what it is served, weighted by what that costs. Who comes back
from being idle is lifted to the least of those present, so that idling earns no credit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

PROMPT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
HEAD_START = 0.5  # of who comes back: it is next among equals, and waits for nobody's queue


class Shares:
    """What each tenant was served so far. Only tenants with requests are compared with each other."""

    def __init__(self) -> None:
        self._served = dict[str, float]()
        self._present = Counter[str]()  # requests of each tenant, waiting or running

    @property
    def num_tenants(self) -> int:
        """Tenants with requests."""
        return len(self._present)

    def join(self, tenant: str) -> None:
        """One more request of `tenant`."""
        if tenant not in self._present:
            least = min((self._served[other] for other in self._present), default=0.0)
            self._served[tenant] = max(self._served.get(tenant, 0.0), least - HEAD_START)
        self._present[tenant] += 1

    def leave(self, tenant: str) -> None:
        """One request less. Once nobody is left, nobody owes anything."""
        self._present[tenant] -= 1
        if not self._present[tenant]:
            del self._present[tenant]
            if not self._present:
                self._served.clear()
            elif len(self._served) > 2 * len(self._present) + 16:
                self._forget_settled()

    def charge(self, tenant: str, cost: float) -> None:
        self._served[tenant] += cost

    def served(self, tenant: str) -> float:
        return self._served[tenant]

    def _forget_settled(self) -> None:
        """Absent tenants that would be lifted anyway need no counter."""
        least = min(self._served[tenant] for tenant in self._present)
        self._served = {
            tenant: served
            for tenant, served in self._served.items()
            if tenant in self._present or served > least
        }


def max_min_shares(demands: Mapping[str, int], capacity: int) -> dict[str, int]:
    """Split `capacity`: no share exceeds its demand, or could grow but at the cost of a smaller one."""
    shares, left = dict[str, int](), capacity
    for position, (name, demand) in enumerate(sorted(demands.items(), key=lambda item: item[1])):
        shares[name] = min(demand, left // (len(demands) - position))
        left -= shares[name]
    return shares

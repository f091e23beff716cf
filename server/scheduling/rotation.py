"""Whose decode rows run in the next step, when not all of them may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq

from server.scheduling.fairness import max_min_shares
from server.scheduling.sequence import Sequence


def fair_row_limit(rows: Seq[Sequence], *, seconds_per_step: float, seconds_per_row: float) -> int:
    """How many rows a step may have, so that nobody's streams are slowed by more than their number explains.

    With k tenants decoding, a step lasts at most k times what the rows of the smallest would take alone. One
    tenant alone, or a device whose pace is unknown, has no limit.
    """
    sizes = Counter(row.tenant for row in rows)
    if len(sizes) < 2 or seconds_per_row <= 0.0:
        return len(rows)
    smallest = min(sizes.values())
    alone = seconds_per_step + smallest * seconds_per_row
    return max(len(sizes) * smallest, int((len(sizes) * alone - seconds_per_step) / seconds_per_row))


def choose_rows(rows: Seq[Sequence], limit: int) -> list[Sequence]:
    """At most `limit` of them. A tenant within its share has all; the rows of others take turns."""
    if len(rows) <= limit:
        return list(rows)
    longest_unserved_first = sorted(rows, key=lambda row: row.served)
    shares = max_min_shares(Counter(row.tenant for row in rows), limit)
    if not all(shares.values()):  # fewer rows than tenants: these take turns, too
        return longest_unserved_first[:limit]
    chosen = list[Sequence]()
    for row in longest_unserved_first:
        if shares[row.tenant]:
            shares[row.tenant] -= 1
            chosen.append(row)
    return chosen

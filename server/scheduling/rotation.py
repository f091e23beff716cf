"""How much of a step each tenant gets, when several share it; and whose decode rows run, when not all may.

Nobody is slowed by more than the number of tenants explains: with k of them, a step lasts at most k times
what the smallest of them would take alone, be it for the rows of its streams or to read its prompt. With one
tenant nothing is limited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from server.scheduling.fairness import max_min_shares
from server.scheduling.pace import DecoderPace
from server.scheduling.sequence import Sequence

ROWS_PART = 0.6  # of what a step may last beyond the smallest tenant's own; prompts have the rest
BESIDE_READER = 0.4  # of what the reader takes alone; more, and its prompt would not fit into the step
MOST_READ = 64  # tokens: a longer prompt is read in several steps, alone as well


class FairStep:
    """The limits of one step with these decode `rows`, while so many tenants have seats.

    `reading` are the tokens of prompts that each tenant has to read now, or could begin with.
    """

    def __init__(
        self, rows: Seq[Sequence], reading: Mapping[str, int], num_tenants: int, pace: DecoderPace
    ) -> None:
        self._pace = pace
        self._rows = Counter(row.tenant for row in rows)
        readers = [min(tokens, MOST_READ) for tenant, tokens in reading.items() if tenant not in self._rows]
        self._others = max(num_tenants, len(self._rows) + len(readers)) - 1
        self._read_s = min((pace.seconds(tokens=tokens) for tokens in readers), default=None)
        streams_s = min((pace.seconds(rows=count) for count in self._rows.values()), default=0.0)
        self._alone_s = streams_s if self._read_s is None else min(streams_s, self._read_s)

    @property
    def max_rows(self) -> int:
        """At least one for each tenant that has any."""
        lonely = len(self._rows) < 2 and self._read_s is None
        if lonely or self._pace.per_row <= 0.0 or self._pace.per_token <= 0.0:
            return self._rows.total()
        own, others = (1.0, ROWS_PART) if self._read_s is None else (0.0, BESIDE_READER)  # it has no rows
        limit_s = self._alone_s * (own + others * self._others)
        return max(len(self._rows), int((limit_s - self._pace.per_step) / self._pace.per_row))

    def max_prompt_tokens(self, rows: int) -> int | None:
        """Beside so many rows, of tenants that were served more than one of those whose streams wait.

        At least one, so that they go on; None: no limit.
        """
        if self._others < 1 or not self._rows or self._pace.per_token <= 0.0:
            return None
        left_s = self._alone_s * (1.0 + self._others) - self._pace.seconds(rows=rows) - (self._read_s or 0.0)
        return max(1, int(left_s / self._pace.per_token))


@dataclass(slots=True, kw_only=True)
class PromptBudget:
    """Tokens that a step has for prompts: `fair_tokens` for tenants served more than `least_served`."""

    tokens: int
    fair_tokens: int | None
    least_served: float

    def left(self, served: float) -> int:
        """For a tenant that was served so much."""
        restricted = self.fair_tokens is not None and served > self.least_served
        return min(self.tokens, self.fair_tokens or 0) if restricted else self.tokens

    def spend(self, served: float, tokens: int) -> None:
        self.tokens -= tokens
        if self.fair_tokens is not None and served > self.least_served:
            self.fair_tokens -= tokens


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

"""How much of a step each tenant gets, when several share it; and whose decode rows run, when not all may.

Nobody is slowed by more than the number of tenants explains: with k of them, a step lasts less than k times
what the smallest of them would take alone, be it for the rows of its streams or to read its prompt. With one
tenant nothing is limited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from server.scheduling.fairness import max_min_shares
from server.scheduling.pace import DecoderPace
from server.scheduling.sequence import Sequence

OTHERS_PART = 0.6  # of what the others may add: whoever comes also waits for the step under way
ROWS_PART = 0.75  # of what a step may last beyond the smallest tenant's own; prompts have the rest
BESIDE_READER = 0.4  # of what the reader takes alone; more, and its prompt would not fit into the step
MOST_READ = 64  # tokens: a longer prompt is read in several steps, alone as well


class FairStep:
    """The limits of one step with these decode `rows`, while so many tenants have seats.

    `reading` are the tokens of prompts that each tenant has to read now, or could begin with. `reader` is the
    tenant without streams for whose prompt the rows of others make room, if that is the smallest of all.
    """

    def __init__(
        self, rows: Seq[Sequence], reading: Mapping[str, int], num_tenants: int, pace: DecoderPace
    ) -> None:
        self._pace = pace
        self._rows = _count_rows(rows)
        readers = {tenant: min(n, MOST_READ) for tenant, n in reading.items() if tenant not in self._rows}
        self._others = OTHERS_PART * (max(num_tenants, len(self._rows) + len(readers)) - 1)
        streams_s = min((pace.seconds(rows=count) for count in self._rows.values()), default=0.0)
        smallest = min(readers, key=lambda tenant: readers[tenant], default=None)
        read_s = 0.0 if smallest is None else pace.seconds(tokens=readers[smallest])
        self.reader = smallest if self._rows and read_s <= streams_s else None
        self._alone_s = streams_s if self.reader is None else read_s

    @property
    def max_rows(self) -> int:
        """At least one for each tenant that has any."""
        lonely = len(self._rows) < 2 and self.reader is None
        if lonely or self._pace.per_row <= 0.0 or self._pace.per_token <= 0.0:
            return self._rows.total()
        own, others = (1.0, ROWS_PART) if self.reader is None else (0.0, BESIDE_READER)  # it has no rows
        limit_s = self._alone_s * (own + others * self._others)
        return max(len(self._rows), int((limit_s - self._pace.per_step) / self._pace.per_row))

    def max_prompt_tokens(self, rows: int) -> int | None:
        """Beside so many rows, of tenants that were served more than one of those whose streams wait.

        At least one, so that they go on; None: no limit.
        """
        if not self._others or not self._rows or self._pace.per_token <= 0.0:
            return None
        read_s = self._alone_s if self.reader is not None else 0.0
        left_s = self._alone_s * (1.0 + self._others) - self._pace.seconds(rows=rows) - read_s
        return max(1, int(left_s / self._pace.per_token))


@dataclass(slots=True, kw_only=True)
class PromptBudget:
    """Tokens that a step has for prompts; only `fair_tokens` for `restricted` tenants, if there are such."""

    tokens: int
    fair_tokens: int | None
    restricted: Callable[[str], bool]
    untouched: bool = field(default=True, init=False)  # whether no prompt of this step has been begun

    def left(self, tenant: str) -> int:
        if self.fair_tokens is not None and self.restricted(tenant):
            return min(self.tokens, self.fair_tokens)
        return self.tokens

    def affords(self, tenant: str, source: int) -> bool:
        """Whether a prompt may be begun whose source, of so many tokens, has to be encoded whole.

        One that is longer than what is left waits until it is the first work of a step, and overdraws that,
        as a long passage does.
        """
        left = self.left(tenant)
        return left > 0 and (source < left or self.untouched)

    def spend(self, tenant: str, tokens: int) -> None:
        self.untouched = False
        self.tokens -= tokens
        if self.fair_tokens is not None and self.restricted(tenant):
            self.fair_tokens -= tokens


def choose_rows(rows: Seq[Sequence], limit: int) -> list[Sequence]:
    """At most `limit` rows of them. A tenant within its share has all; the rows of others take turns.

    Branches of one beam search run together. So that the widest gets its turn, who has waited longest runs
    though it exceeds the limit, and a tenant that has any of its share left may exceed that.
    """
    left = limit
    if _count_rows(rows).total() <= limit:
        return list(rows)
    shares = max_min_shares(_count_rows(rows), limit)
    if not all(shares.values()):  # fewer rows than tenants: these take turns, too
        shares = dict.fromkeys(shares, limit)
    chosen = list[Sequence]()
    for row in sorted(rows, key=lambda row: row.served):
        if not chosen or (shares[row.tenant] > 0 and row.width <= left):
            shares[row.tenant] -= row.width
            left -= row.width
            chosen.append(row)
    return chosen


def _count_rows(streams: Iterable[Sequence]) -> Counter[str]:
    """By tenant; every branch of a beam search is one."""
    rows = Counter[str]()
    for stream in streams:
        rows[stream.tenant] += stream.width
    return rows

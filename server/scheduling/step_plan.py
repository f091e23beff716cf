"""One step of a decoder while it is being planned: the rows of streams, their drafts, then prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from server.scheduling.drafting import Drafting
from server.scheduling.plan import Slice
from server.scheduling.roster import Roster
from server.scheduling.rotation import FairStep, PromptBudget, choose_rows
from server.scheduling.sequence import Sequence

DRAFTING_ROWS = 4  # with more streams than that, their rows fill a pass as well as drafts would


class StepPlan:
    """At most `max_tokens`, on behalf of who is in `roster`; call the three verbs in the order given here."""

    def __init__(self, roster: Roster, *, max_tokens: int) -> None:
        self._roster = roster
        self._holdings = roster.holdings
        self._max_tokens = max_tokens
        self._slices = dict[int, Slice]()  # by id
        self._out_of_blocks = False  # nobody new comes in where there is not enough for those who run

    @property
    def slices(self) -> tuple[Slice, ...]:
        return tuple(self._slices.values())

    def add_rows(self, rows: list[Sequence], *, limit: int, servings: Iterator[int]) -> None:
        """One token of each stream in `rows`, or `limit` rows of them; `servings` number those given."""
        for sequence in choose_rows(rows, min(limit, self._max_tokens)):
            if self._make_room(sequence):
                self._put(sequence, 1)
                sequence.served = next(servings)

    def add_drafts(self, drafting: Drafting) -> None:
        """Only few streams draft, and never for more than half of what a step has left for prompts.

        Those of tenants with many do not count: their rows are what others have to wait for anyway.
        """
        streams = [piece.sequence for piece in self.slices]
        of_tenant = Counter[str]()
        for piece in self.slices:
            of_tenant[piece.sequence.tenant] += piece.width
        few = [sequence for sequence in streams if of_tenant[sequence.tenant] <= DRAFTING_ROWS]
        for sequence in few if len(few) <= DRAFTING_ROWS else ():
            limit = min(self._tokens_left // 2, self._holdings.room(sequence) - 1)
            draft = drafting.draft(sequence, limit)
            if draft and self._holdings.grow(sequence, 1 + len(draft)):
                self._put(sequence, 1 + len(draft), draft)

    def add_prompts(self, fair: FairStep, max_tokens: int | None) -> None:
        """Of whoever is first in line, running already or waiting; None: as many tokens as are left."""
        budget = self._prompt_budget(fair, max_tokens)
        rank = self._roster.rank
        behind = sorted(self._roster.behind, key=rank, reverse=True)
        head = self._roster.next_head() if budget.tokens > 0 else None
        while budget.tokens > 0 and (head is not None or behind):
            if head is not None and (not behind or rank(head) < rank(behind[-1])):
                head = self._roster.next_head() if self._start(head, budget) else None
            else:
                self._advance(behind.pop(), budget)

    @property
    def _tokens_left(self) -> int:
        return self._max_tokens - sum(piece.num_tokens for piece in self._slices.values())

    def _prompt_budget(self, fair: FairStep, max_tokens: int | None) -> PromptBudget:
        left, served = self._tokens_left, self._roster.shares.served
        least = min((served(piece.sequence.tenant) for piece in self.slices), default=0.0)
        return PromptBudget(
            tokens=left if max_tokens is None else min(left, max_tokens),
            fair_tokens=fair.max_prompt_tokens(self._max_tokens - left),
            restricted=lambda tenant: tenant != fair.reader and served(tenant) > least,
        )

    def _start(self, sequence: Sequence, budget: PromptBudget) -> bool:
        """Whether it has a seat now, and its first chunk: nobody has a seat whose source is not encoded."""
        if self._out_of_blocks or not budget.affords(sequence.tenant, sequence.unencoded):
            return False
        victims = self._roster.admit(sequence)
        if victims is None:
            return False
        for victim in victims:
            self._slices.pop(victim.id, None)
        self._read(sequence, budget)  # whatever is left for its tenant, now that this prompt is charged
        return True

    def _advance(self, sequence: Sequence, budget: PromptBudget) -> None:
        """Plan its next chunk, if there is anything left for it."""
        if budget.left(sequence.tenant) > 0:
            self._read(sequence, budget)

    def _read(self, sequence: Sequence, budget: PromptBudget) -> None:
        """Plan at least a token of it, behind its source, unless it has to make room for others."""
        if not self._make_room(sequence):
            return
        source = sequence.unencoded
        left = max(1, budget.left(sequence.tenant) - source)
        size = min(sequence.pending, left, self._holdings.room(sequence))
        self._holdings.grow(sequence, size)
        self._put(sequence, size)
        budget.spend(sequence.tenant, source + size)

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempt others until it can grow by a token; False if it has to go itself, or already had to."""
        while sequence.id in self._roster.seats:
            if self._holdings.grow(sequence, 1):
                return True
            self._out_of_blocks = True
            victim = self._roster.seats.last()
            self._roster.preempt(victim)
            self._slices.pop(victim.id, None)
        return False

    def _put(self, sequence: Sequence, size: int, draft: tuple[int, ...] = ()) -> None:
        self._slices[sequence.id] = Slice(
            sequence,
            sequence.computed,
            size,
            draft,
            encodes=sequence.unencoded > 0,
            width=sequence.width,
            copies=() if sequence.search is None else tuple(sequence.search.copies),
        )

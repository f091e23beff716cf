"""What a decoder runs next.

There is no prefill phase and no decode phase. Every sequence has `pending` tokens, and each step
hands out a token budget so that they catch up: a long prompt takes several steps (chunked
prefill), a decoding sequence is always one token behind, a preempted one starts again from what the
prefix cache still knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from server.scheduling.blocks import BlockPool
from server.scheduling.drafting import Drafting
from server.scheduling.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT, Shares
from server.scheduling.holdings import Holdings
from server.scheduling.pace import DecoderPace, Demand
from server.scheduling.plan import DecodeStep, Results, Sampled, Slice
from server.scheduling.rotation import FairStep, PromptBudget, choose_rows
from server.scheduling.seats import Seats
from server.scheduling.sequence import Sequence
from server.scheduling.waiting import WaitingLine

LATEST_OUTPUT = 0.1  # what the latest answer weighs in the mean length
DRAFTING_ROWS = 4  # with more streams than that, their rows fill a pass as well as drafts would


class GenerationLane:
    """The sequences of one decoder."""

    def __init__(
        self,
        model: str,
        blocks: BlockPool,
        *,
        max_batch_tokens: int,
        max_sequences: int,
        speculation: bool = True,
    ) -> None:
        """At most `max_batch_tokens` a step and `max_sequences` at once; `speculation` turns drafts on."""
        self.blocks = blocks
        self.preemptions = 0
        self.cached_tokens = 0  # of prompts, found in the cache
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._drafting = Drafting() if speculation else None
        self._pace = DecoderPace()
        self._shares = Shares()
        self._waiting = WaitingLine[Sequence](self._shares)
        self._seats = Seats(max_sequences, self._shares, blocks)
        self._holdings = Holdings(blocks)
        self._live = dict[int, Sequence]()  # waiting or running, by id
        self._arrivals = count()
        self._servings = count(1)
        self._usual_output = 0.0  # tokens of an answer, as a fading mean
        self._plan = dict[int, Slice]()  # of the step being planned, by id
        self._out_of_blocks = False  # found while it was planned: nobody new comes in

    @property
    def num_running(self) -> int:
        return len(self._seats)

    @property
    def num_waiting(self) -> int:
        return len(self._live) - len(self._seats)

    @property
    def drafted_tokens(self) -> int:
        return self._drafting.drafted_tokens if self._drafting else 0

    @property
    def accepted_tokens(self) -> int:
        """Drafted tokens that stood."""
        return self._drafting.accepted_tokens if self._drafting else 0

    def add(self, sequence: Sequence) -> None:
        """Queue it. ValueError where it has no tokens, or could never finish: its longest possible text
        must fit the pool alone."""
        longest = sequence.prompt_length + sequence.max_new_tokens
        if longest > self.blocks.num_tokens:
            raise ValueError(f"{longest} tokens can never fit into {self.blocks.num_tokens} of KV cache")
        if not sequence.tokens:
            raise ValueError("a sequence without tokens has nothing to continue")
        sequence.arrival = next(self._arrivals)
        self._live[sequence.id] = sequence
        self._shares.join(sequence.tenant)
        self._waiting.join(sequence, sequence.arrival)

    def remove(self, id_: int) -> Sequence | None:
        """Forget it, wherever it is; None where it is unknown, or finished."""
        sequence = self._live.pop(id_, None)
        if sequence is None:
            return None
        if id_ in self._seats:
            self._stand(sequence)
        self._waiting.leave(id_)
        self._shares.leave(sequence.tenant)
        if self._drafting:
            self._drafting.forget(id_)
        return sequence

    def next_step(self, prompt_tokens: int | None = None) -> DecodeStep | None:
        """One row of each stream, then at most `prompt_tokens` of prompts; None: as many as a step takes."""
        self._plan = {}
        self._out_of_blocks = False
        fair = self._plan_rows()
        self._plan_drafts()
        self._plan_prompts(self._prompt_budget(fair, prompt_tokens))
        return DecodeStep(model=self._model, slices=tuple(self._plan.values())) if self._plan else None

    def apply(self, step: DecodeStep, results: Results, seconds: float) -> list[Sequence]:
        """Record what a step produced in `seconds`; return the sequences that it finished."""
        self._pace.observe(step, seconds)
        finished = list[Sequence]()
        for piece in step.slices:
            sequence = piece.sequence
            if sequence.id not in self._seats:  # aborted while the step ran
                continue
            self._record(piece, results)
            if sequence.finish_reason is not None:
                self.remove(sequence.id)
                self._note_output(sequence.generated)
                finished.append(sequence)
        return finished

    def _note_output(self, tokens: int) -> None:
        known = self._usual_output
        self._usual_output = tokens if known == 0.0 else known + LATEST_OUTPUT * (tokens - known)

    @property
    def pace(self) -> DecoderPace:
        return self._pace

    def demand(self) -> Demand:
        rows = [sequence for sequence in self._seats if sequence.decoding]
        seconds = self._pace.seconds(rows=self._fair_step(rows).max_rows) if rows else 0.0
        return Demand(streams=len(rows), streams_s=seconds, hungry=len(self._live) > len(rows))

    def tokens_before(self, sequence: Sequence) -> int:
        """Prompt tokens to compute until its first token, if it joined now: its own that the cache lacks,
        and those of others before it."""
        running = sum(one.pending for one in self._seats if not one.decoding)
        own = len(sequence.tokens) - len(self._holdings.find(sequence)) * self.blocks.block_size
        return self._waiting.tokens_before(sequence) + running + own

    def steps_until_seat(self) -> float:
        """Where all are taken, one becomes free each time that an answer of usual length is written."""
        return (self.num_waiting + 1) * self._usual_output / len(self._seats) if self._seats.full else 0.0

    def _record(self, piece: Slice, results: Results) -> None:
        sequence = piece.sequence
        sequence.appended = 0
        if sequence.prompt_alternatives is not None:
            sequence.scored = max(sequence.scored, min(piece.end, sequence.prompt_length - 1))
        if piece.samples:
            self._append(piece, results.sampled[sequence.id])
        else:
            sequence.computed = piece.end
        sequence.read = sequence.computed >= sequence.prompt_length or sequence.read
        self._rejoin(self._holdings.remember(sequence, piece.start))

    def _append(self, piece: Slice, sampled: Sampled) -> None:
        """What was sampled stands up to the first stop token; the cache holds all of it but the last."""
        sequence = piece.sequence
        tokens = _until_stop((one.token for one in sampled.tokens), sequence.stop_tokens)
        sequence.tokens += tokens
        sequence.appended = len(tokens)
        sequence.computed = len(sequence.tokens) - 1
        sequence.surprise = sampled.surprise
        self._shares.charge(sequence.tenant, OUTPUT_WEIGHT * len(tokens))
        if piece.draft and self._drafting:
            self._drafting.learn(sequence, drafted=len(piece.draft), accepted=len(sampled.tokens) - 1)

    def _plan_rows(self) -> FairStep:
        rows = [sequence for sequence in self._seats if sequence.decoding]
        fair = self._fair_step(rows)
        for sequence in choose_rows(rows, min(fair.max_rows, self._max_batch_tokens)):
            if self._make_room(sequence):
                self._put(sequence, 1)
                sequence.served = next(self._servings)
        return fair

    def _fair_step(self, rows: list[Sequence]) -> FairStep:
        return FairStep(rows, self._seats.num_tenants, self._pace)

    def _plan_drafts(self) -> None:
        """Only few streams draft, and never for more than half of what a step has left for prompts."""
        if self._drafting is None or len(self._plan) > DRAFTING_ROWS:
            return
        for sequence in [piece.sequence for piece in self._plan.values()]:
            limit = min(self._budget_left() // 2, self._holdings.room(sequence) - 1)
            draft = self._drafting.draft(sequence, limit)
            if draft and self._holdings.grow(sequence, 1 + len(draft)):
                self._put(sequence, 1 + len(draft), draft)

    def _plan_prompts(self, budget: PromptBudget) -> None:
        """Whoever is first in line, running already or waiting, as far as the budget goes."""
        behind = sorted((one for one in self._seats if one.pending > 1), key=self._rank, reverse=True)
        head = self._next_head() if budget.tokens > 0 else None
        while budget.tokens > 0 and (head is not None or behind):
            if head is not None and (not behind or self._rank(head) < self._rank(behind[-1])):
                started = not self._out_of_blocks and self._start(head, budget)
                head = self._next_head() if started else None
            else:
                self._advance(behind.pop(), budget)

    def _prompt_budget(self, fair: FairStep, prompt_tokens: int | None) -> PromptBudget:
        left = self._budget_left()
        streams = (piece.sequence.tenant for piece in self._plan.values())
        return PromptBudget(
            tokens=left if prompt_tokens is None else min(left, prompt_tokens),
            fair_tokens=fair.max_prompt_tokens(sum(piece.count for piece in self._plan.values())),
            least_served=min((self._shares.served(tenant) for tenant in streams), default=0.0),
        )

    def _start(self, sequence: Sequence, budget: PromptBudget) -> bool:
        if budget.left(self._shares.served(sequence.tenant)) <= 0 or not self._admit(sequence):
            return False
        self._advance(sequence, budget)
        return True

    def _rank(self, sequence: Sequence) -> tuple[int, float, int]:
        return (-sequence.priority, self._shares.served(sequence.tenant), sequence.arrival)

    def _next_head(self) -> Sequence | None:
        """The first in line for whom it is worth to start now."""
        while (head := self._waiting.first()) is not None:
            if not self._holdings.waits(head, len(self._holdings.find(head))):
                return head
            self._waiting.leave(head.id)
        return None

    def _admit(self, sequence: Sequence) -> bool:
        """Give it a seat, and what the cache has of its text, if all its tokens fit: others may make way."""
        found = self._holdings.find(sequence)
        missing = self._holdings.missing(sequence, found)
        victims = self._seats.make_way(sequence, missing_blocks=missing)
        if victims is None:
            return False
        for victim in victims:
            self._preempt(victim)
        self._waiting.leave(sequence.id)
        self._seats.sit(sequence)
        self._holdings.begin(sequence, found)
        if sequence.cached is None:
            sequence.cached = sequence.computed
            self.cached_tokens += sequence.computed
            self._shares.charge(sequence.tenant, PROMPT_WEIGHT * sequence.pending)
        return True

    def _advance(self, sequence: Sequence, budget: PromptBudget) -> None:
        """Plan its next chunk, if there is anything left for it, and it need not make room for others."""
        served = self._shares.served(sequence.tenant)
        if budget.left(served) <= 0 or not self._make_room(sequence):
            return
        size = min(sequence.pending, budget.left(served), self._holdings.room(sequence))
        self._holdings.grow(sequence, size)
        self._put(sequence, size)
        budget.spend(served, size)

    def _make_room(self, sequence: Sequence) -> bool:
        """Preempt others until it can grow by a token; False if it has to go itself, or already had to."""
        while sequence.id in self._seats:
            if self._holdings.grow(sequence, 1):
                return True
            self._out_of_blocks = True
            self._preempt(self._seats.last())
        return False

    def _preempt(self, sequence: Sequence) -> None:
        """Back into the queue, at its old place; what it computed stays in the cache while there is room."""
        self.preemptions += 1
        self._plan.pop(sequence.id, None)
        self._stand(sequence)
        sequence.computed = 0
        self._waiting.join(sequence, sequence.arrival)

    def _stand(self, sequence: Sequence) -> None:
        self._seats.stand(sequence)
        self._rejoin(self._holdings.release(sequence))

    def _rejoin(self, waiters: Iterable[Sequence]) -> None:
        for sequence in waiters:
            if sequence.id in self._live:
                self._waiting.join(sequence, sequence.arrival)

    def _put(self, sequence: Sequence, size: int, draft: tuple[int, ...] = ()) -> None:
        self._plan[sequence.id] = Slice(sequence, sequence.computed, size, draft)

    def _budget_left(self) -> int:
        return self._max_batch_tokens - sum(piece.count for piece in self._plan.values())


def _until_stop(tokens: Iterable[int], stop_tokens: frozenset[int]) -> list[int]:
    """`tokens` up to the first stop token, that one included."""
    kept = list[int]()
    for token in tokens:
        kept.append(token)
        if token in stop_tokens:
            break
    return kept

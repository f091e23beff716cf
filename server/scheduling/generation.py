"""What a decoder runs next.

There is no prefill phase and no decode phase. Every sequence has `pending` tokens, and each step
hands out a token budget so that they catch up: a long prompt takes several steps (chunked
prefill), a decoding sequence is always one token behind, a preempted one starts again from what the
prefix cache still knows of it.
"""

from __future__ import annotations

from itertools import count

from server.scheduling.blocks import BlockPool
from server.scheduling.drafting import Drafting
from server.scheduling.pace import DecoderPace, Demand
from server.scheduling.plan import DecodeStep, Results
from server.scheduling.recording import Recorder
from server.scheduling.roster import Roster
from server.scheduling.rotation import FairStep
from server.scheduling.sequence import Sequence
from server.scheduling.step_plan import StepPlan

LATEST_OUTPUT = 0.1  # what the latest answer weighs in the mean length


class GenerationLane:
    """The sequences of one decoder: planned a step at a time, and moved on by what each step gave."""

    def __init__(
        self,
        model: str,
        blocks: BlockPool,
        *,
        max_batch_tokens: int,
        max_sequences: int,
        speculation: bool = True,
        sources: bool = False,
    ) -> None:
        """At most `max_sequences` at once and, but for a single longer source, `max_batch_tokens` a step.

        `speculation` turns drafts on. `sources`: whether this is the decoder of an encoder-decoder.
        """
        self.blocks = blocks
        self.pace = DecoderPace()
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._sources = sources
        self._roster = Roster(blocks, max_sequences=max_sequences)
        self._drafting = Drafting() if speculation else None
        self._recorder = Recorder(self._roster, self._drafting)
        self._servings = count(1)
        self._usual_output = 0.0  # tokens of an answer, as a fading mean

    @property
    def num_running(self) -> int:
        return len(self._roster.seats)

    @property
    def num_waiting(self) -> int:
        return len(self._roster) - len(self._roster.seats)

    @property
    def preemptions(self) -> int:
        return self._roster.preemptions

    @property
    def cached_tokens(self) -> int:
        """Of prompts, found in the cache."""
        return self._roster.cached_tokens

    @property
    def drafted_tokens(self) -> int:
        return self._drafting.drafted_tokens if self._drafting else 0

    @property
    def accepted_tokens(self) -> int:
        """Drafted tokens that stood."""
        return self._drafting.accepted_tokens if self._drafting else 0

    def __contains__(self, id_: int) -> bool:
        """Whether it waits or runs."""
        return id_ in self._roster

    def add(self, sequence: Sequence) -> None:
        """Queue it. ValueError where it has no tokens, has a source where the model takes none or none where
        it does, or could never finish: its longest possible text must fit the pool alone, with its source and
        all its branches, and these must fit a step."""
        if not sequence.tokens:
            raise ValueError("a sequence without tokens has nothing to continue")
        if bool(sequence.source) != self._sources:
            reason = "an encoder-decoder needs a source" if self._sources else "a decoder takes no source"
            raise ValueError(f"{self._model}: {reason}")
        self._check_room(sequence)
        self._roster.join(sequence)

    def remove(self, id_: int) -> Sequence | None:
        """Forget it, wherever it is; None where it is unknown, or finished."""
        if self._drafting:
            self._drafting.forget(id_)
        return self._roster.leave(id_)

    def next_step(self, prompt_tokens: int | None = None) -> DecodeStep | None:
        """One row of each stream, then at most `prompt_tokens` of prompts; None: as many as a step takes."""
        rows = self._roster.rows
        fair = self._fair_step(rows)
        plan = StepPlan(self._roster, max_tokens=self._max_batch_tokens)
        plan.add_rows(rows, limit=fair.max_rows, servings=self._servings)
        if self._drafting:
            plan.add_drafts(self._drafting)
        plan.add_prompts(fair, prompt_tokens)
        return DecodeStep(model=self._model, slices=plan.slices) if plan.slices else None

    def apply(self, step: DecodeStep, results: Results, seconds: float) -> list[Sequence]:
        """Record what a step produced in `seconds`; return the sequences that it finished."""
        self.pace.observe(step, seconds)
        finished = list[Sequence]()
        for piece in step.slices:
            sequence = piece.sequence
            if sequence.id not in self._roster.seats:  # aborted while the step ran
                continue
            self._recorder.record(piece, results)
            if sequence.finish_reason is not None:
                self.remove(sequence.id)
                self._note_output(sequence.generated)
                finished.append(sequence)
        return finished

    def demand(self) -> Demand:
        """What there is to do now, of streams and beside them."""
        rows = self._roster.rows
        seconds = self.pace.seconds(rows=self._fair_step(rows).max_rows) if rows else 0.0
        return Demand(streams=len(rows), streams_s=seconds, hungry=self._roster.hungry)

    def tokens_before(self, sequence: Sequence) -> int:
        """Prompt tokens to compute until its first token, if it joined now: its own that the cache lacks,
        and those of others before it."""
        running = sum(one.pending for one in self._roster.behind)
        own = sequence.num_tokens - len(self._roster.holdings.find(sequence)) * self.blocks.block_size
        return self._roster.waiting.tokens_before(sequence) + running + own

    def steps_until_seat(self, sequence: Sequence) -> float:
        """If it joined now: each of the seats becomes free once an answer of usual length is written."""
        return self._roster.seats_short(sequence) * self._usual_output / self._roster.seats.capacity

    def _check_room(self, sequence: Sequence) -> None:
        width, longest = sequence.greatest_width, sequence.prompt_length + sequence.max_new_tokens
        if width > self._max_batch_tokens:
            raise ValueError(f"{width} beams can never fit into a step of {self._max_batch_tokens} tokens")
        if self._roster.holdings.most(sequence, longest) > self.blocks.num_blocks:
            source = f" and a source of {len(sequence.source)}" if sequence.source else ""
            beams = f" on {width} beams" if width > 1 else ""
            raise ValueError(
                f"{longest} tokens{beams}{source} can never fit into {self.blocks.num_tokens} of KV cache"
            )

    def _fair_step(self, rows: list[Sequence]) -> FairStep:
        alone = self._roster.shares.num_tenants < 2  # then nothing is limited, and nothing need be looked up
        reading = {} if alone else self._roster.reading
        return FairStep(rows, reading, self._roster.seats.num_tenants, self.pace)

    def _note_output(self, tokens: int) -> None:
        known = self._usual_output
        self._usual_output = tokens if known == 0.0 else known + LATEST_OUTPUT * (tokens - known)

"""What a decoder runs next.

There is no prefill phase and no decode phase. Every sequence has `pending` tokens, and each step
hands out a token budget so that they catch up: a long prompt takes several steps (chunked
prefill), a decoding sequence is always one token behind, a preempted one starts again from zero.
"""

from __future__ import annotations

from collections import deque

from server.scheduling.blocks import BlockPool
from server.scheduling.plan import DecodeStep, Results, Slice
from server.scheduling.sequence import Sequence


class GenerationLane:
    """The sequences of one decoder: first come first served, the youngest preempted first."""

    def __init__(self, model: str, blocks: BlockPool, *, max_batch_tokens: int, max_sequences: int) -> None:
        self.blocks = blocks
        self.preemptions = 0
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._max_sequences = max_sequences
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}  # by id, oldest first

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue it. Its longest possible text must fit the pool alone, or it could never finish."""
        longest = sequence.prompt_length + sequence.max_new_tokens
        if longest > self.blocks.num_tokens:
            raise ValueError(f"{longest} tokens can never fit into {self.blocks.num_tokens} of KV cache")
        self._waiting.append(sequence)

    def abort(self, id_: int) -> None:
        """Forget it, wherever it is; unknown and finished ones are no error."""
        sequence = self._running.pop(id_, None)
        if sequence is not None:
            self._release(sequence)
        elif any(waiting.id == id_ for waiting in self._waiting):
            self._waiting = deque(waiting for waiting in self._waiting if waiting.id != id_)

    def next_step(self) -> DecodeStep | None:
        before = self.preemptions
        slices, budget = self._continue_running()
        while budget and self.preemptions == before and (admitted := self._admit(budget)) is not None:
            count = min(admitted.pending, budget)
            slices.append(Slice(admitted, admitted.computed, count))
            budget -= count
        return DecodeStep(model=self._model, slices=tuple(slices)) if slices else None

    def apply(self, step: DecodeStep, results: Results) -> list[Sequence]:
        """Record what a step produced; return the sequences that it finished."""
        finished = list[Sequence]()
        for piece in step.slices:
            sequence = piece.sequence
            if sequence.id not in self._running:  # aborted while the step ran
                continue
            samples = piece.samples
            sequence.computed = piece.start + piece.count
            if samples:
                sequence.tokens += [one.token for one in results.sampled[sequence.id].tokens]
            if sequence.finish_reason is not None:
                self._release(self._running.pop(sequence.id))
                finished.append(sequence)
        return finished

    def _continue_running(self) -> tuple[list[Slice], int]:
        """Slices of what runs already, and the budget they leave."""
        slices, budget = list[Slice](), self._max_batch_tokens
        for sequence in self._in_order():
            if sequence.id not in self._running:  # preempted for an older one, just now
                continue
            count = self._make_room(sequence, min(sequence.pending, budget))
            if count:
                slices.append(Slice(sequence, sequence.computed, count))
                budget -= count
        return [piece for piece in slices if piece.sequence.id in self._running], budget

    def _in_order(self) -> list[Sequence]:
        """Decoding ones first, so that a long prompt never holds up a running stream."""
        return sorted(self._running.values(), key=lambda sequence: sequence.pending > 1)

    def _admit(self, budget: int) -> Sequence | None:
        if not self._waiting or len(self._running) == self._max_sequences:
            return None
        sequence = self._waiting[0]
        if not self._grow(sequence, min(sequence.pending, budget)):
            return None
        self._running[sequence.id] = self._waiting.popleft()
        return sequence

    def _make_room(self, sequence: Sequence, count: int) -> int:
        """Preempt the youngest until `count` more tokens fit; 0 if `sequence` itself had to go."""
        while not self._grow(sequence, count):
            _, youngest = self._running.popitem()
            self._release(youngest)
            self._waiting.appendleft(youngest)
            self.preemptions += 1
            if youngest is sequence:
                return 0
        return count

    def _grow(self, sequence: Sequence, count: int) -> bool:
        missing = self.blocks.blocks_for(sequence.computed + count) - len(sequence.blocks)
        new = self.blocks.take(max(missing, 0))
        if new is None:
            return False
        sequence.blocks += new
        return True

    def _release(self, sequence: Sequence) -> None:
        self.blocks.give_back(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0

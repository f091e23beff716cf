"""What an encoder runs next: whole passages, first in first out, cut into quanta of tokens.

Nothing waits for a batch to fill: it forms while the device is busy with other work. The quantum
bounds how long the streams of a decoder on the same device are held up.
"""

from __future__ import annotations

from collections import deque

from server.scheduling.plan import EncodeStep, Results
from server.scheduling.sequence import Passage


class EncodingLane:
    """The passages of one encoder. A passage longer than the quantum runs alone, never not at all."""

    def __init__(self, model: str, *, max_batch_tokens: int, max_passages: int) -> None:
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._max_passages = max_passages
        self._waiting: deque[Passage] = deque()

    @property
    def num_running(self) -> int:
        return 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, passage: Passage) -> None:
        self._waiting.append(passage)

    def abort(self, id_: int) -> None:
        self._waiting = deque(passage for passage in self._waiting if passage.id != id_)

    def next_step(self) -> EncodeStep | None:
        taken, budget = list[Passage](), self._max_batch_tokens
        while self._waiting and len(taken) < self._max_passages:
            length = len(self._waiting[0].tokens)
            if taken and length > budget:
                break
            taken.append(self._waiting.popleft())
            budget -= length
        return EncodeStep(model=self._model, passages=tuple(taken)) if taken else None

    def apply(self, step: EncodeStep, results: Results) -> list[Passage]:
        """Every passage of a step is finished by it."""
        return list(step.passages)

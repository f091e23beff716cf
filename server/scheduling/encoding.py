"""What an encoder runs next: whole passages, packed, cut into quanta of tokens.

Nothing waits for a batch to fill: it forms while the device is busy with other work. The quantum
bounds how long the streams of a decoder on the same device are held up.
"""

from __future__ import annotations

from itertools import count

from server.scheduling.fairness import PROMPT_WEIGHT, Shares
from server.scheduling.pace import Demand, EncoderPace
from server.scheduling.plan import EncodeStep
from server.scheduling.sequence import Passage
from server.scheduling.waiting import WaitingLine


class EncodingLane:
    """The passages of one encoder. One longer than the quantum runs alone, never not at all."""

    def __init__(self, model: str, *, max_batch_tokens: int, max_passages: int) -> None:
        """At most `max_passages` and, but for a single longer one, `max_batch_tokens` a step."""
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._max_passages = max_passages
        self.pace = EncoderPace()
        self._shares = Shares()
        self._waiting = WaitingLine[Passage](self._shares)
        self._running = dict[int, Passage]()  # by id, while a step is under way
        self._arrivals = count()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def __contains__(self, id_: int) -> bool:
        """Whether it waits or runs."""
        return id_ in self._waiting or id_ in self._running

    def add(self, passage: Passage) -> None:
        """Queue it. ValueError where it has no tokens."""
        if not passage.tokens:
            raise ValueError("a passage without tokens has nothing to encode")
        self._shares.join(passage.tenant)
        self._waiting.join(passage, next(self._arrivals))

    def remove(self, id_: int) -> Passage | None:
        """Forget it; None where it is unknown, or finished. A step under way is not stopped."""
        passage = self._waiting.leave(id_) or self._running.pop(id_, None)
        if passage is not None:
            self._shares.leave(passage.tenant)
        return passage

    def next_step(self, tokens: int | None = None) -> EncodeStep | None:
        """A batch of at most `tokens`, or of one passage; None: as many as a step takes."""
        budget = self._max_batch_tokens if tokens is None else min(tokens, self._max_batch_tokens)
        taken = list[Passage]()
        while budget > 0 and len(taken) < self._max_passages:
            passage = self._waiting.first()
            if passage is None or (taken and passage.num_tokens > budget):
                break
            taken.append(passage)
            budget -= passage.num_tokens
            self._shares.charge(passage.tenant, PROMPT_WEIGHT * passage.num_tokens)
            self._waiting.leave(passage.id)
            self._running[passage.id] = passage
        return EncodeStep(model=self._model, passages=tuple(taken)) if taken else None

    def apply(self, step: EncodeStep, seconds: float) -> list[Passage]:
        """Every passage of a step is finished by it, but those aborted meanwhile."""
        self.pace.observe(step, seconds)
        return [passage for passage in step.passages if self.remove(passage.id) is not None]

    def demand(self) -> Demand:
        return Demand(hungry=len(self._waiting) > 0)

    def tokens_before(self, passage: Passage) -> int:
        """Tokens to compute until it is answered, if it joined now: its own, and of others before it."""
        return self._waiting.tokens_before(passage) + passage.num_tokens

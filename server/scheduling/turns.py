"""One budget of time: running streams first, the rest shared out between the models' other work.

In a round every lane has a turn. Its streams' rows always run; what they leave of the time that a stream
may wait for its next token goes to prompts and passages, by deficit round robin (Shreedhar & Varghese 1995):
each lane with such work is credited the same seconds, and pays for what it really took. A passage runs whole,
so it may overdraw; its lane then waits until that is paid back. Idle lanes save nothing up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Step

Lane = GenerationLane | EncodingLane

LEAST_REST = 0.1  # of the target: what other work gets even where the streams alone take longer
FEWEST_TOKENS = 16  # of a quantum: less is not worth a pass
UNMEASURED_TOKENS = 64  # a quantum while nobody knows how long tokens take
MOST_DEBT = 20.0  # times the target: beyond, it was the device that stalled


class Turns:
    """Whose turn it is, and for how many tokens."""

    def __init__(self, lanes: Mapping[str, Lane], itl_target_s: float) -> None:
        self._lanes = lanes
        self._target_s = itl_target_s
        self._order = deque(lanes)
        self._credit_s = dict.fromkeys(lanes, 0.0)
        self._planned_freely = True

    def next_step(self) -> Step | None:
        """The step of whoever's turn it is; None where nobody has anything to do."""
        return self._step_of_next(limited=True) or self._step_of_next(limited=False)

    def settle(self, step: Step, seconds: float) -> None:
        """The step planned last took so long."""
        if not self._planned_freely:
            spent = seconds * beside_streams(self._lanes[step.model], step)
            credit = self._credit_s[step.model] - spent
            self._credit_s[step.model] = max(credit, -MOST_DEBT * self._target_s)

    def share(self, model: str) -> float:
        """The part of the device's time that `model` has for prompts and passages, if it has such work."""
        hungry = sum(lane.is_hungry for name, lane in self._lanes.items() if name != model) + 1
        if not self._has_streams():
            return 1.0 / hungry
        return self._rest_s() / hungry / max(self._target_s, self._streams_s() + self._rest_s())

    def _step_of_next(self, *, limited: bool) -> Step | None:
        """Without limits only where nobody may do anything within them: the device is not to be idle."""
        for _ in range(len(self._order)):
            model = self._order[0]
            self._order.rotate(-1)
            quantum = self._quantum(model) if limited else None
            step = self._lanes[model].next_step(quantum)
            if step is not None:
                self._planned_freely = quantum is None
                return step
        return None

    def _quantum(self, model: str) -> int | None:
        """Tokens beside the rows of streams; None, and no debts, while no stream waits for anything."""
        if not self._has_streams():
            self._credit_s = dict.fromkeys(self._lanes, 0.0)
            return None
        lane, rest = self._lanes[model], self._rest_s()
        hungry = sum(other.is_hungry for other in self._lanes.values())
        credit = self._credit_s[model] + rest / max(hungry, 1)
        self._credit_s[model] = min(credit, rest if lane.is_hungry else 0.0)
        if self._credit_s[model] <= 0.0:
            return 0
        tokens = lane.tokens_within(self._credit_s[model])
        return UNMEASURED_TOKENS if tokens is None else max(tokens, FEWEST_TOKENS)

    def _has_streams(self) -> bool:
        return any(lane.num_decoding for lane in self._lanes.values())

    def _streams_s(self) -> float:
        return sum(lane.decoding_seconds() for lane in self._lanes.values())

    def _rest_s(self) -> float:
        return max(self._target_s - self._streams_s(), LEAST_REST * self._target_s)


def beside_streams(lane: Lane, step: Step) -> float:
    """Which part of the time of a step was not for streams, between 0 and 1."""
    if isinstance(step, DecodeStep):
        assert isinstance(lane, GenerationLane)
        return lane.beside_streams(step)
    return 1.0

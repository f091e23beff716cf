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
        self._spent_s = deque([0.0] * len(lanes), maxlen=len(lanes))  # beside streams, by the latest turns
        self._limited = False  # whether the step planned last was

    def next_step(self) -> Step | None:
        """The step of whoever's turn it is; None where nobody has anything to do."""
        return self._step_of_next(limited=True) or self._step_of_next(limited=False)

    def settle(self, step: Step, seconds: float) -> None:
        """The step planned last took so long."""
        if self._limited:
            spent = seconds * self._part_beside_streams(step)
            self._spent_s[-1] = spent
            credit = self._credit_s[step.model] - spent
            self._credit_s[step.model] = max(credit, -MOST_DEBT * self._target_s)

    def seconds_for(self, model: str, tokens: int) -> float | None:
        """How long so many tokens of prompts or passages take, with the others at work that are so now.

        None while the model's pace is unknown.
        """
        lane = self._lanes[model]
        if lane.pace.per_token <= 0.0:
            return None
        hungry = sum(other.is_hungry for name, other in self._lanes.items() if name != model) + 1
        if not self._has_streams():
            return hungry * (tokens * lane.pace.per_token + lane.pace.per_step)
        share_s = self._rest_s() / hungry
        overhead_s = 0.0 if lane.num_decoding else lane.pace.per_step
        quantum = max(FEWEST_TOKENS, (share_s - overhead_s) / lane.pace.per_token)
        work_s = tokens * lane.pace.per_token + tokens / quantum * overhead_s
        return work_s / share_s * self.round_s()

    def round_s(self) -> float:
        """How long a round of all lanes takes, and so a stream's next token."""
        hungry = any(lane.is_hungry for lane in self._lanes.values())
        return self._streams_s() + (self._rest_s() if hungry else 0.0)

    def _step_of_next(self, *, limited: bool) -> Step | None:
        """Without limits only where nobody may do anything within them: the device is not to be idle."""
        for _ in range(len(self._order)):
            model = self._order[0]
            self._order.rotate(-1)
            self._spent_s.append(0.0)
            quantum = self._quantum(model) if limited else None
            step = self._lanes[model].next_step(quantum)
            if step is not None:
                self._limited = quantum is not None
                return step
        return None

    def _quantum(self, model: str) -> int | None:
        """Tokens beside the rows of streams; None, and no debts, while no stream waits for anything."""
        if not self._has_streams():
            self._credit_s = dict.fromkeys(self._lanes, 0.0)
            return None
        rest = self._rest_s()
        hungry = sum(lane.is_hungry for lane in self._lanes.values())
        credit = self._credit_s[model] + rest / max(hungry, 1)
        self._credit_s[model] = min(credit, rest if self._lanes[model].is_hungry else 0.0)
        return self._tokens_for(model, rest) if self._credit_s[model] > 0.0 else 0

    def _tokens_for(self, model: str, rest: float) -> int:
        """As many as the lane's credit and the round are good for.

        Where that is not worth a pass, the lane saves up for a round of its own, and the others let it pass.
        """
        lane, credit = self._lanes[model], self._credit_s[model]
        if lane.pace.per_token <= 0.0:
            return UNMEASURED_TOKENS
        seconds = min(credit, rest - sum(self._spent_s)) - (0.0 if lane.num_decoding else lane.pace.per_step)
        tokens = int(seconds / lane.pace.per_token)
        if credit >= rest:
            return max(tokens, 0 if any(self._spent_s) else FEWEST_TOKENS)
        passing = any(self._credit_s[name] >= rest for name, other in self._lanes.items() if other.is_hungry)
        return tokens if tokens >= FEWEST_TOKENS and not passing else 0

    def _part_beside_streams(self, step: Step) -> float:
        if not isinstance(step, DecodeStep):
            return 1.0
        lane = self._lanes[step.model]
        assert isinstance(lane, GenerationLane)
        return lane.pace.prompt_part(step)

    def _has_streams(self) -> bool:
        return any(lane.num_decoding for lane in self._lanes.values())

    def _streams_s(self) -> float:
        return sum(lane.decoding_seconds() for lane in self._lanes.values())

    def _rest_s(self) -> float:
        return max(self._target_s - self._streams_s(), LEAST_REST * self._target_s)

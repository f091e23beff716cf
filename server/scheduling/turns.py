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

LEAST_REST = 0.25  # of the target: what other work gets even where the streams alone take longer
FEWEST_TOKENS = 16  # of a quantum: less is not worth a pass
UNMEASURED_TOKENS = 64  # a quantum while nobody knows how long tokens take
MOST_DEBT = 20.0  # times the target: beyond, it was the device that stalled


class Round:
    """What all lanes could do now, and how the time of a round is divided."""

    def __init__(self, lanes: Mapping[str, Lane], target_s: float) -> None:
        self.demands = {name: lane.demand() for name, lane in lanes.items()}
        self.has_streams = any(demand.streams for demand in self.demands.values())
        self.hungry = {name for name, demand in self.demands.items() if demand.hungry}
        self.streams_s = sum(demand.streams_s for demand in self.demands.values())
        self.rest_s = max(target_s - self.streams_s, LEAST_REST * target_s)

    @property
    def seconds(self) -> float:
        """How long a stream waits for its next token."""
        return self.streams_s + (self.rest_s if self.hungry else 0.0)


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
        """The step of whoever's turn it is; None where nobody has anything to do.

        Without limits where no stream waits, or nobody may do anything within them: it must not idle.
        """
        now = self.round()
        return (self._step_of_next(now) if now.has_streams else None) or self._step_of_next(None)

    def settle(self, step: Step, seconds: float) -> None:
        """The step planned last took so long."""
        if self._limited:
            spent = seconds * self._part_beside_streams(step)
            self._spent_s[-1] = spent
            credit = self._credit_s[step.model] - spent
            self._credit_s[step.model] = max(credit, -MOST_DEBT * self._target_s)

    def round(self) -> Round:
        return Round(self._lanes, self._target_s)

    def seconds_for(self, model: str, tokens: int) -> float | None:
        """How long so many tokens of prompts or passages take, with the others at work that are so now.

        None while the model's pace is unknown.
        """
        pace, now = self._lanes[model].pace, self.round()
        if not pace.known or pace.per_token <= 0.0:
            return None
        hungry = len(now.hungry | {model})
        if not now.has_streams:
            return hungry * (tokens * pace.per_token + pace.per_step)
        share_s, overhead_s = now.rest_s / hungry, self._overhead_s(model, now)
        quantum = max(FEWEST_TOKENS, (share_s - overhead_s) / pace.per_token)
        work_s = tokens * pace.per_token + tokens / quantum * overhead_s
        return work_s / share_s * (now.streams_s + now.rest_s)

    def _step_of_next(self, now: Round | None) -> Step | None:
        """None: there are no limits, and so no debts."""
        self._limited = now is not None
        if now is None:
            self._credit_s = dict.fromkeys(self._lanes, 0.0)
        for _ in range(len(self._order)):
            model = self._order[0]
            self._order.rotate(-1)
            self._spent_s.append(0.0)
            step = self._lanes[model].next_step(None if now is None else self._quantum(model, now))
            if step is not None:
                return step
        return None

    def _quantum(self, model: str, now: Round) -> int:
        """Tokens beside the rows of streams.

        As many as the lane's credit and the round are good for. Where that is not worth a pass, the lane
        saves up for a round of its own, and the others let it pass.
        """
        self._credit(model, now)
        credit, per_token = self._credit_s[model], self._lanes[model].pace.per_token
        if credit <= 0.0:
            return 0
        if per_token <= 0.0:
            return UNMEASURED_TOKENS
        seconds = min(credit, now.rest_s - sum(self._spent_s)) - self._overhead_s(model, now)
        tokens = int(seconds / per_token)
        if credit >= now.rest_s:
            return max(tokens, 0 if any(self._spent_s) else FEWEST_TOKENS)
        passing = any(self._credit_s[other] >= now.rest_s for other in now.hungry)
        return tokens if tokens >= FEWEST_TOKENS and not passing else 0

    def _credit(self, model: str, now: Round) -> None:
        """Its share of this round; never more than a round's, and none to keep for who has no use for it."""
        credit = self._credit_s[model] + now.rest_s / max(len(now.hungry), 1)
        self._credit_s[model] = min(credit, now.rest_s if model in now.hungry else 0.0)

    def _overhead_s(self, model: str, now: Round) -> float:
        """What a pass costs for being one; where streams have a pass, it is theirs."""
        return 0.0 if now.demands[model].streams else self._lanes[model].pace.per_step

    def _part_beside_streams(self, step: Step) -> float:
        if not isinstance(step, DecodeStep):
            return 1.0
        lane = self._lanes[step.model]
        assert isinstance(lane, GenerationLane)
        return lane.pace.prompt_part(step)

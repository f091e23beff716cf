"""What runs next on the device, whichever model it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Results, Step
from server.scheduling.sequence import Passage, Sequence
from server.scheduling.turns import Turns

BELIEF = 0.5  # what an estimate that nothing has tested loses each time it is asked for
SETTLED_DEADLINES = 64  # of requests that ended before theirs: as many are kept before they are swept out


class Scheduler:
    """One scheduler for every model on the device, so that decoders and encoders share it fairly."""

    def __init__(
        self, lanes: Mapping[str, GenerationLane | EncodingLane], *, itl_target_s: float = 0.1
    ) -> None:
        """`itl_target_s`: how long other work may make a stream wait between two tokens. ValueError if not
        positive."""
        if not itl_target_s > 0.0:
            raise ValueError(f"a target of {itl_target_s} s between tokens cannot be met")
        self.lanes = dict(lanes)
        self._turns = Turns(self.lanes, itl_target_s)
        self._deadlines = list[
            tuple[float, int, str]
        ]()  # a heap of (when, id, model); some have ended already
        self._untested = Counter[str]()  # by model: estimates since its last step

    def generate(self, model: str, sequence: Sequence) -> None:
        """Queue it. ValueError where it could never finish: empty, or longer than the KV cache."""
        lane = self.lanes[model]
        assert isinstance(lane, GenerationLane), f"{model} is no decoder"
        lane.add(sequence)
        self._watch(model, sequence)

    def encode(self, model: str, passage: Passage) -> None:
        """Queue it. ValueError where it is empty."""
        lane = self.lanes[model]
        assert isinstance(lane, EncodingLane), f"{model} is no encoder"
        lane.add(passage)
        self._watch(model, passage)

    def abort(self, id_: int) -> None:
        """Forget it, wherever it is; unknown and finished ones are no error."""
        for lane in self.lanes.values():
            lane.remove(id_)

    def expire(self, now: float) -> list[Sequence | Passage]:
        """Remove whatever has its deadline at `now` or before, and return it: sequences say TIMEOUT."""
        expired = list[Sequence | Passage]()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, id_, model = heappop(self._deadlines)
            late = self.lanes[model].remove(id_)
            if isinstance(late, Sequence):
                late.timed_out = True
            if late is not None:
                expired.append(late)
        return expired

    def seconds_until_first(self, item: Sequence | Passage, model: str) -> float | None:
        """How long `item`, not yet queued, would wait for its first token or its answer, at the pace so far
        and behind what is queued before it; None while that pace is unknown.

        A model that has nothing to do measures nothing: where an estimate kept all requests away, it could
        never be put right. So each one asked for in such a time is shorter than the one before.
        """
        seconds = self._estimate(item, model)
        lane = self.lanes[model]
        if seconds is None or lane.num_running or lane.num_waiting:
            return seconds
        self._untested[model] += 1
        return seconds * BELIEF ** (self._untested[model] - 1)

    def next_step(self) -> Step | None:
        """What to run now; None where there is nothing to do."""
        return self._turns.next_step()

    def apply(self, step: Step, results: Results, seconds: float) -> list[Sequence | Passage]:
        """Record what a step produced, and that it took `seconds`; return what it finished.

        Of what was sampled, the first `sequence.appended` tokens stand: none is kept behind a stop token.
        """
        self._turns.settle(step, seconds)
        self._untested[step.model] = 0
        lane = self.lanes[step.model]
        if isinstance(step, DecodeStep):
            assert isinstance(lane, GenerationLane)
            return [*lane.apply(step, results, seconds)]
        assert isinstance(lane, EncodingLane)
        return [*lane.apply(step, seconds)]

    def _estimate(self, item: Sequence | Passage, model: str) -> float | None:
        lane = self.lanes[model]
        if isinstance(item, Passage):
            assert isinstance(lane, EncodingLane), f"{model} is no encoder"
            return self._turns.seconds_for(model, lane.tokens_before(item))
        assert isinstance(lane, GenerationLane), f"{model} is no decoder"
        seconds = self._turns.seconds_for(model, lane.tokens_before(item))
        steps = lane.steps_until_seat(item)
        return None if seconds is None else seconds + steps * self._turns.round().seconds

    def _watch(self, model: str, item: Sequence | Passage) -> None:
        if item.deadline < float("inf"):
            heappush(self._deadlines, (item.deadline, item.id, model))
            self._sweep()

    def _sweep(self) -> None:
        """A deadline may be a day away, its request long done."""
        present = sum(lane.num_running + lane.num_waiting for lane in self.lanes.values())
        if len(self._deadlines) > 2 * present + SETTLED_DEADLINES:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self.lanes[entry[2]]]
            heapify(self._deadlines)

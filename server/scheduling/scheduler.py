"""Decides which model runs next. Each has a lane of its own; lanes with work take turns."""

from __future__ import annotations

from collections.abc import Mapping

from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Results, Step
from server.scheduling.sequence import Passage, Sequence


class Scheduler:
    """One scheduler for every model on the device, so that decoders and encoders share it fairly."""

    def __init__(self, lanes: Mapping[str, GenerationLane | EncodingLane]) -> None:
        self.lanes = dict(lanes)
        self._turns = list(lanes)  # whose turn is next, first

    def generate(self, model: str, sequence: Sequence) -> None:
        lane = self.lanes[model]
        assert isinstance(lane, GenerationLane), f"{model} is no decoder"
        lane.add(sequence)

    def encode(self, model: str, passage: Passage) -> None:
        lane = self.lanes[model]
        assert isinstance(lane, EncodingLane), f"{model} is no encoder"
        lane.add(passage)

    def abort(self, id_: int) -> None:
        for lane in self.lanes.values():
            lane.abort(id_)

    def next_step(self) -> Step | None:
        """Whoever has run goes to the back, so that neither kind starves the other."""
        for model in self._turns:
            step = self.lanes[model].next_step()
            if step is not None:
                self._turns.remove(model)
                self._turns.append(model)
                return step
        return None

    def apply(self, step: Step, results: Results) -> list[Sequence | Passage]:
        """Record what a step produced; return what it finished."""
        lane = self.lanes[step.model]
        if isinstance(step, DecodeStep):
            assert isinstance(lane, GenerationLane)
            return [*lane.apply(step, results)]
        assert isinstance(lane, EncodingLane)
        return [*lane.apply(step, results)]

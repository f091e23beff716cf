"""A scheduler with several models, driven by a clock that its own steps move on."""

from __future__ import annotations

from server.request import EmbedWork
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import EncodeStep, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage, Sequence
from tests.scheduling.device import Device, seconds

TARGET_S = 0.05


class Server:
    """A scheduler with two decoders, an encoder-decoder, two encoders, and a clock that its steps move on."""

    def __init__(
        self, *, max_batch_tokens: int = 512, max_sequences: int = 32, encoder_pass_s: float = 0.0
    ) -> None:
        """`encoder_pass_s`: what a pass of an encoder takes more than one of a decoder."""
        self._encoder_pass_s = encoder_pass_s
        self.lanes: dict[str, GenerationLane | EncodingLane] = {
            name: GenerationLane(
                name,
                BlockPool(4000, 4),
                max_batch_tokens=max_batch_tokens,
                max_sequences=max_sequences,
                speculation=False,
                sources=name == "t5",
            )
            for name in ("gpt", "llama", "t5")
        }
        for name in ("bert", "minilm"):
            self.lanes[name] = EncodingLane(name, max_batch_tokens=max_batch_tokens, max_passages=64)
        self.scheduler = Scheduler(self.lanes, itl_target_s=TARGET_S)
        self._devices = {name: Device() for name in self.lanes}
        self.now = 0.0
        self.slowness = 1.0
        self.spent = dict.fromkeys(self.lanes, 0.0)
        self._next_id = 0

    def stream(
        self, model: str = "gpt", *, tokens: int = 1, new: int = 1000, source: int = 0, tenant: str = ""
    ) -> Sequence:
        """`source`: how many tokens of it the encoder-decoder reads before `tokens` of the decoder's text."""
        self._next_id += 1
        start = 10_000 * self._next_id
        sequence = Sequence(
            id=self._next_id,
            tokens=[*range(start, start + tokens)],
            source=(1,) * source,
            max_new_tokens=new,
            tenant=tenant,
        )
        self.scheduler.generate(model, sequence)
        return sequence

    def embed(self, model: str = "bert", *, tokens: int = 20, count: int = 1) -> None:
        for _ in range(count):
            self._next_id += 1
            self.scheduler.encode(model, Passage(id=self._next_id, tokens=(1,) * tokens, work=EmbedWork()))

    def step(self) -> Step:
        step = self.scheduler.next_step()
        assert step is not None
        took_s = seconds(step) + self._encoder_pass_s * isinstance(step, EncodeStep)
        took_s *= self.slowness
        self.scheduler.apply(step, self._devices[step.model].run(step), took_s)
        self.now += took_s
        self.spent[step.model] += took_s
        return step

    def gaps(self, stream: Sequence, rounds: int) -> list[float]:
        """Seconds between one token of a stream and the next."""
        gaps = list[float]()
        for _ in range(rounds):
            since, length = self.now, len(stream.tokens)
            while len(stream.tokens) == length:
                self.step()
            gaps.append(self.now - since)
        return gaps


def warm(*, max_sequences: int = 32, encoder_pass_s: float = 0.0) -> Server:
    """Has measured every lane."""
    server = Server(max_sequences=max_sequences, encoder_pass_s=encoder_pass_s)
    for model in ("gpt", "llama"):
        server.stream(model, tokens=200, new=6)
        server.stream(model, tokens=60, new=12)
        server.step()
        server.stream(model, tokens=90, new=6)
        server.step()
        server.stream(model, tokens=30, new=6)
    for tokens in (200, 60, 90, 30):
        server.stream("t5", source=tokens, new=6)
        server.step()
    for model in ("bert", "minilm"):
        server.embed(model, tokens=200)
        server.embed(model, tokens=20, count=30)
    while any(lane.num_running or lane.num_waiting for lane in server.lanes.values()):
        server.step()
    return server

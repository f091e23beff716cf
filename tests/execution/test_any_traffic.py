"""The one law as a property: whatever the traffic, every text and every score is what it is alone.

A tiny decoder, little memory, few seats, steps of one token to many, drafts, priorities, two tenants, samples
that share a prompt, scored prompts, every kind of sampler, and grammars: `tests/test_same_text.py` holds the
same law one company at a time for models of real size.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.decoder import Decoder
from models.kv_cache import KVCache
from models.layers.linear import prepack
from models.seq2seq import Seq2Seq
from server.execution.device import is_batch_invariant
from server.execution.generation import DecoderRunner
from server.execution.runner import Runner
from server.request import Beams, Dry, EarlyStopping, FinishReason, Mirostat, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Scored
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from tests.execution import tiny_t5
from tests.execution.test_generation import CONFIG, CPU

BLOCK_SIZE = 4
LONGEST_PROMPT, LONGEST_OUTPUT, LONGEST_SOURCE, WIDEST = 28, 20, 12, 4
FEW = (3, 4, 5)  # who chooses among these says what was said before, so that guesses often stand
HOT = 20.0  # the decoder is sure of itself: less would leave mirostat and drafts nothing to be wrong about
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "repetition_penalty": 1.3, "penalty_window": 5},
    {"temperature": HOT, "allowed_tokens": FEW},
    {"temperature": 0.5, "dry": Dry(multiplier=0.8, allowed_length=1), "top_k": 9},
    {"temperature": HOT, "mirostat": Mirostat(tau=0.8, eta=0.5), "allowed_tokens": FEW},
    {"temperature": HOT, "mirostat": Mirostat(tau=2.0, eta=0.5), "min_new_tokens": 6},
    {"typical_p": 0.7, "no_repeat_ngram": 2, "frequency_penalty": 0.5},
    {"dynatemp_range": 0.5, "xtc_probability": 0.5, "min_p": 0.02},
)


SEARCHED: tuple[dict[str, Any], ...] = (
    {},
    {"no_repeat_ngram": 2, "forced_first": 9},
    {"repetition_penalty": 1.3, "min_new_tokens": 6, "forced_last": 4},
)


class Alternating:
    """A grammar that allows one token of sixteen, and others after each one."""

    failure = None

    def __init__(self) -> None:
        self._shift = 0

    def allowed(self) -> Tensor:
        bits = (torch.arange(CONFIG.vocab_size) + self._shift) % 16 == 0
        words = (bits.long().view(-1, 32) << torch.arange(32)).sum(-1)
        return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)

    def advance(self, token: int) -> None:
        self._shift += token % 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    blocks: int = 64
    sources: bool = False  # whether it is the device of an encoder-decoder
    step_tokens: int = 64
    seats: int = 8
    speculation: bool = False
    step_s: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`comes_at`: before which step."""

    comes_at: int
    standing: dict[str, Any]
    request: dict[str, Any]

    def sequence(self, id_: int) -> Sequence:
        given = self.request | {"tokens": list(self.request["tokens"])}
        return Sequence(id=id_, **given, **self.standing)


@dataclass(slots=True)
class Said:
    tokens: list[Scored] = field(default_factory=list)
    prompt: list[Scored] = field(default_factory=list)
    finish: FinishReason | None = None


def traffic(chance: Random, *, sources: bool, beams: bool) -> list[Asked]:
    """Some requests of their own, then two more samples of the first."""
    own = [request(chance, sources=sources) for _ in range(chance.randint(2, 5))]
    own = [one | search(chance) if beams and chance.random() < 0.5 else one for one in own]
    sampling: Sampling = own[0]["sampling"]
    more = [own[0] | {"sampling": replace(sampling, sample=number)} for number in (1, 2)]
    return [
        Asked(
            comes_at=chance.randint(0, 12),
            standing={"tenant": chance.choice("ab"), "priority": chance.choice([0, 0, 1])},
            request=one,
        )
        for one in (*own, *more)
    ]


def request(chance: Random, *, sources: bool) -> dict[str, Any]:
    vocabulary, length = range(CONFIG.vocab_size), chance.randint(1, LONGEST_PROMPT)
    source = chance.choices(vocabulary, k=chance.randint(1, LONGEST_SOURCE))
    return {
        "source": tuple(source) if sources else (),
        "tokens": chance.choice([chance.choices(vocabulary, k=length), ([1, 2, 3, 4, 5] * 6)[:length]]),
        "max_new_tokens": chance.choice([0, 1, 12, LONGEST_OUTPUT, LONGEST_OUTPUT]),
        "sampling": Sampling(seed=chance.randint(0, 3), **chance.choice(SAMPLERS)),
        "stop_tokens": frozenset(chance.choice([[], [], chance.sample(vocabulary, 3)])),
        "prompt_alternatives": chance.choice([None, None, 0, 2]),
        "alternatives": chance.choice([0, 2]),
        "constrained": chance.random() < 0.2,
    }


def search(chance: Random) -> dict[str, Any]:
    """How a beam search differs."""
    beams = Beams(
        width=chance.randint(2, WIDEST),
        length_penalty=chance.choice([0.5, 2.0]),
        early_stopping=chance.choice(list(EarlyStopping)),
    )
    sampling = Sampling(temperature=0.0, **chance.choice(SEARCHED))
    return {"beams": beams, "sampling": sampling, "constrained": False}


def some_device(chance: Random, *, sources: bool, beams: bool) -> Device:
    """12 blocks hold the longest text alone, 30 on four beams, and a source takes three."""
    return Device(
        blocks=(30 if beams else 12) + (3 if sources else 0) + chance.choice([0, 2, 8]),
        sources=sources,
        step_tokens=chance.choice([WIDEST if beams else 3, 16, 64]),
        seats=chance.choice([1, 2, 8]),
        speculation=chance.random() < 0.7,
        step_s=chance.choice([0.001, 0.05, 0.3]),
    )


@dataclass(frozen=True, slots=True)
class Models:
    decoder: Decoder
    t5: Seq2Seq
    dtype: torch.dtype


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def models(request: pytest.FixtureRequest) -> Models:
    if not is_batch_invariant(CPU, request.param):
        pytest.skip(f"not batch-invariant in {request.param} on this processor")
    torch.manual_seed(0)
    decoder = Decoder(CONFIG).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.data = (parameter.data * 3).to(request.param)
    prepack(decoder)
    return Models(decoder, tiny_t5.build(request.param), request.param)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other would take most of the time of so small a model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Server:
    """Scheduler and runner of one model, and what they said of each request, by its number."""

    def __init__(self, models: Models, device: Device) -> None:
        config = tiny_t5.CONFIG.decoder if device.sources else CONFIG
        cache = KVCache(
            config, num_blocks=device.blocks, block_size=BLOCK_SIZE, device=CPU, dtype=models.dtype
        )
        self._lane = GenerationLane(
            "m",
            BlockPool(device.blocks, BLOCK_SIZE),
            max_batch_tokens=device.step_tokens,
            max_sequences=device.seats,
            speculation=device.speculation,
            sources=device.sources,
        )
        self._decoding = DecoderRunner(models.t5 if device.sources else models.decoder, cache, CPU)
        self._scheduler = Scheduler({"m": self._lane})
        self._runner = Runner({"m": self._decoding})
        self._step_s = device.step_s
        self._sequences = dict[int, Sequence]()
        self._said = dict[int, Said]()

    def serve(self, asked: Seq[Asked]) -> list[Said]:
        """Run all of it to the end; no block stays behind."""
        steps, busy = 0, True
        while busy or len(self._said) < len(asked):
            for number, one in enumerate(asked):
                if one.comes_at == steps:
                    self._add(number, one)
            busy, steps = self._step(), steps + 1
        assert self._lane.blocks.num_free == self._lane.blocks.num_blocks
        for number, said in self._said.items():
            said.finish = self._sequences[number].finish_reason
        return [self._said[number] for number in range(len(asked))]

    def _add(self, number: int, one: Asked) -> None:
        self._said[number] = Said()
        self._sequences[number] = sequence = one.sequence(number)
        if sequence.constrained:
            self._decoding.constrain(number, Alternating())
        self._scheduler.generate("m", sequence)

    def _step(self) -> bool:
        """False where there is nothing to do."""
        step = self._scheduler.next_step()
        if not isinstance(step, DecodeStep):
            return False
        results = self._runner.run(step)
        self._scheduler.apply(step, results, self._step_s)
        for sequence in (piece.sequence for piece in step.slices):
            said = self._said[sequence.id]
            said.prompt += results.prompt.get(sequence.id, ())
            if sequence.search is not None:
                said.tokens += sequence.search.best[: sequence.appended]
            elif sequence.id in results.sampled:
                said.tokens += results.sampled[sequence.id].tokens[: sequence.appended]
        return True


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), sources=st.booleans(), beams=st.booleans())
def test_every_text_and_score_is_what_it_is_alone(
    models: Models, seed: int, sources: bool, beams: bool
) -> None:
    """The traffic is drawn from the seed: crowded as it is, it is worth more than what could be shrunk."""
    asked = traffic(chance := Random(seed), sources=sources, beams=beams)
    together = Server(models, some_device(chance, sources=sources, beams=beams)).serve(asked)
    for one, said in zip(asked, together, strict=True):
        (alone,) = Server(models, Device(sources=sources)).serve([replace(one, comes_at=0)])
        assert said == alone
        assert said.finish is not None
        if one.request["prompt_alternatives"] is not None:
            assert [scored.token for scored in said.prompt] == one.request["tokens"][1:]

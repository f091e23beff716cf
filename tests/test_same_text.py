"""The one law: a stream is a pure function of (weights, prompt ids, parameters, seed).

One seeded request with temperature, in every company and cut in every way that the engine knows: the same
tokens with the same log-probabilities, bit for bit. On a CPU, by PyTorch's operations and by our kernels, in
both precisions, for the shapes of GPT-2, T5 and Marian (random weights) and for SmolLM2 itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from models.config import Activation, Bias, DecoderConfig, Head, Mlp, Norm, Seq2SeqConfig
from models.decoder import Decoder
from models.errors import SourceUnreachable
from models.families.registry import read
from models.kv_cache import KVCache
from models.loading import LoadedDecoder, load
from models.positions import Learned
from models.seq2seq import Seq2Seq
from models.target import Target
from models.weights.sources import SMOLLM2, resolve
from server.execution.device import is_batch_invariant
from server.execution.generation import DecoderRunner
from server.execution.runner import Runner
from server.request import Dry, Mirostat, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Scored
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from server.settings import Settings

CPU = torch.device("cpu")
BLOCK_SIZE = 16
NEW = 24
SAMPLING = Sampling(temperature=0.8, top_p=0.95, repetition_penalty=1.1, seed=1234)
GPT2 = DecoderConfig(
    architecture="gpt2",
    vocab_size=50257,
    hidden_size=768,
    layers=3,
    heads=12,
    kv_heads=12,
    head_dim=64,
    mlp_size=3072,
    context_length=1024,
    norm=Norm.LAYER,
    norm_eps=1e-5,
    mlp=Mlp.PLAIN,
    activation=Activation.GELU_TANH,
    positions=Learned(rows=1024),
    head=Head.TIED,
    biases=frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP}),
)


def random_gpt2(target: Target) -> tuple[Decoder, DecoderConfig]:
    """As wide as the real one, three layers deep; embeddings large enough for some tokens to stand out."""
    torch.manual_seed(0)
    decoder = Decoder(GPT2).requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.data = torch.randn_like(parameter).mul_(0.04).to(target.dtype)
    target.finish(decoder)
    return decoder, GPT2


T5 = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 2,
    "num_heads": 8,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
}
MARIAN = {
    "model_type": "marian",
    "vocab_size": 32128,
    "d_model": 512,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "max_position_embeddings": 512,
    "activation_function": "swish",
    "scale_embedding": True,
    "decoder_start_token_id": 0,
}


def random_seq2seq(raw: dict[str, object], target: Target) -> tuple[Seq2Seq, DecoderConfig]:
    """Of this config.json."""
    torch.manual_seed(0)
    _, config = read(raw)
    assert isinstance(config, Seq2SeqConfig)
    model = Seq2Seq(config).requires_grad_(False)
    for name, parameter in model.named_parameters():  # biases of distances large enough to turn attention
        spread = 2.0 if ".bias.table" in name else 0.04
        parameter.data = torch.randn_like(parameter).mul_(spread).to(target.dtype)
    target.finish(model)
    return model, config.decoder


def t5(target: Target) -> tuple[Seq2Seq, DecoderConfig]:
    return random_seq2seq(T5, target)


def marian(target: Target) -> tuple[Seq2Seq, DecoderConfig]:
    return random_seq2seq(MARIAN, target)


def smollm2(target: Target) -> tuple[Decoder, DecoderConfig]:
    try:
        path = resolve(SMOLLM2.name, cache=Settings().cache)
    except SourceUnreachable as error:
        pytest.skip(str(error))
    loaded = load(path, device=CPU, dtype=target.dtype, kernels=target.kernels)
    assert isinstance(loaded, LoadedDecoder)
    return loaded.decoder, loaded.config


@dataclass(frozen=True, slots=True)
class Model:
    decoder: Decoder | Seq2Seq
    config: DecoderConfig
    dtype: torch.dtype
    for_kernels: bool

    def source(self, length: int, seed: int) -> tuple[int, ...]:
        """What an encoder reads, if there is one."""
        return tuple(self.prompt(length, 500 + seed)) if isinstance(self.decoder, Seq2Seq) else ()

    def prompt(self, length: int, seed: int) -> list[int]:
        draw = torch.Generator().manual_seed(seed)
        return torch.randint(5, 5000, (length,), generator=draw).tolist()

    def request(self, id_: int = 0, **changes: Any) -> Sequence:
        """The one whose text must not change; 200 tokens, so that chunks of 16 and 64 cut it."""
        given: dict[str, Any] = {
            "tokens": self.prompt(200, 1),
            "source": self.source(61, 1),
            "max_new_tokens": NEW,
            "sampling": SAMPLING,
        } | changes
        return Sequence(id=id_, **given)

    def neighbours(self, count: int) -> list[Sequence]:
        """Of all lengths and parameters, the longest of some blocks."""
        samplings = (
            Sampling(temperature=0.0),
            Sampling(top_k=20, min_p=0.05, seed=7),
            Sampling(mirostat=Mirostat(), seed=8),
            Sampling(dry=Dry(multiplier=0.8), presence_penalty=0.5, frequency_penalty=0.5, seed=9),
        )
        return [
            Sequence(
                id=i,
                tokens=self.prompt(1 + 37 * i % 230, 100 + i),
                source=self.source(1 + 29 * i % 140, i),
                max_new_tokens=1 + 5 * i % NEW,
                sampling=samplings[i % len(samplings)],
            )
            for i in range(1, count + 1)
        ]


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BUILDERS = {"gpt2": random_gpt2, "t5": t5, "marian": marian, "smollm2": smollm2}
PARAMETERS = [
    pytest.param(
        (build, dtype, computing),
        id=f"{name}-{precision}-{computing}",
        marks=[pytest.mark.defaults] if build is smollm2 else [],
    )
    for name, build in BUILDERS.items()
    for precision, dtype in DTYPES.items()
    for computing in ("torch", "kernels")
]


@pytest.fixture(scope="module", params=PARAMETERS)
def model(request: pytest.FixtureRequest) -> Model:
    """Where the processor cannot promise the law, `/info` says so, and there is nothing to test."""
    build, dtype, computing = request.param
    kernels = request.getfixturevalue("kernels") if computing == "kernels" else None
    if not is_batch_invariant(CPU, dtype, kernels=kernels):
        pytest.skip(f"not batch-invariant in {dtype} on this processor")
    decoder, config = build(Target(device=CPU, dtype=dtype, packed=True, kernels=kernels))
    return Model(decoder, config, dtype, for_kernels=kernels is not None)


Said = list[tuple[int, float]]  # tokens and their log-probabilities


@dataclass(slots=True)
class Engine:
    """Scheduler and runner, without the processes around them."""

    model: Model
    step_tokens: int = 256
    max_sequences: int = 64
    blocks: int = 1024
    speculation: bool = False
    said: dict[int, list[Scored]] = field(default_factory=dict)
    lane: GenerationLane = field(init=False)
    scheduler: Scheduler = field(init=False)
    runner: Runner = field(init=False)

    def __post_init__(self) -> None:
        cache = KVCache(
            self.model.config,
            num_blocks=self.blocks,
            block_size=BLOCK_SIZE,
            device=CPU,
            dtype=self.model.dtype,
            for_kernels=self.model.for_kernels,
        )
        self.lane = GenerationLane(
            "m",
            BlockPool(self.blocks, BLOCK_SIZE),
            max_batch_tokens=self.step_tokens,
            max_sequences=self.max_sequences,
            speculation=self.speculation,
            sources=isinstance(self.model.decoder, Seq2Seq),
        )
        self.scheduler = Scheduler({"m": self.lane})
        self.runner = Runner({"m": DecoderRunner(self.model.decoder, cache, CPU)})

    def add(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.scheduler.generate("m", sequence)

    def step(self) -> bool:
        """False when there is nothing left to do."""
        step = self.scheduler.next_step()
        if step is None:
            return False
        assert isinstance(step, DecodeStep)
        results = self.runner.run(step)
        self.scheduler.apply(step, results, 0.05)
        for id_, sampled in results.sampled.items():
            self.said.setdefault(id_, []).extend(sampled.tokens)
        return True

    def run(self, *sequences: Sequence) -> None:
        self.add(*sequences)
        while self.step():
            pass

    def run_until(self, sequence: Sequence, generated: int) -> None:
        while sequence.generated < generated:
            assert self.step()

    def text(self, id_: int = 0) -> Said:
        return [(scored.token, scored.logprob) for scored in self.said[id_]]


@pytest.fixture(scope="module")
def alone(model: Model) -> Said:
    engine = Engine(model)
    engine.run(model.request())
    said = engine.text()
    assert len(said) == NEW
    assert len({token for token, _ in said}) > NEW // 3  # a text, not one token over and over
    return said


@pytest.mark.parametrize("size", [2, 7, 32])
def test_in_a_batch(model: Model, alone: Said, size: int) -> None:
    """Neighbours of every kind, some there before it, some that come while it speaks."""
    engine, request = Engine(model), model.request()
    first, *others = (neighbours := model.neighbours(size - 1))[: size // 2 + 1]
    engine.add(first, *others)
    engine.step()
    engine.add(request)
    engine.run_until(request, 5)
    engine.run(*neighbours[size // 2 + 1 :])
    assert engine.text() == alone


@pytest.mark.parametrize("chunk", [16, 64, 512])
def test_chunked(model: Model, alone: Said, chunk: int) -> None:
    engine = Engine(model, step_tokens=chunk)
    engine.run(model.request(), *model.neighbours(3))
    assert engine.text() == alone


def test_with_its_prompt_in_the_cache(model: Model, alone: Said) -> None:
    engine, request = Engine(model), model.request()
    engine.run(model.request(1, sampling=replace(SAMPLING, seed=1), max_new_tokens=3))
    engine.run(request)
    assert request.cached == 192
    assert engine.text() == alone


def test_preempted_twice(model: Model, alone: Said) -> None:
    """There is one seat, and others are more important."""
    engine, request = Engine(model, max_sequences=1), model.request()
    engine.add(request)
    for id_, said in enumerate((3, 11), 1):
        engine.run_until(request, said)
        engine.add(model.request(id_, tokens=model.prompt(90, id_), max_new_tokens=4, priority=1))
        engine.step()
        assert request.computed == 0
    engine.run()
    assert engine.lane.preemptions == 2
    assert engine.text() == alone


def test_speculated(model: Model) -> None:
    """Of two words only, and hot, so that what comes has often been there before, and often is another."""
    two_words = Sampling(temperature=20.0, allowed_tokens=(300, 400), seed=1234)
    changes: dict[str, Any] = {"sampling": two_words}
    plain, ahead = Engine(model), Engine(model, speculation=True)
    plain.run(model.request(**changes, max_new_tokens=60))
    ahead.run(model.request(**changes, max_new_tokens=60))
    assert 0 < ahead.lane.accepted_tokens < ahead.lane.drafted_tokens
    assert ahead.text() == plain.text()


def test_several_samples_share_the_prompt_and_each_is_what_it_is_alone(model: Model, alone: Said) -> None:
    engine = Engine(model)
    requests = [model.request(i, sampling=replace(SAMPLING, sample=i)) for i in range(4)]
    engine.run(*requests)
    assert engine.text(0) == alone
    assert len({tuple(engine.text(i)) for i in range(4)}) == 4
    assert [request.cached for request in requests] == [0, 192, 192, 192]
    by_itself = Engine(model)
    by_itself.run(model.request(3, sampling=replace(SAMPLING, sample=3)))
    assert by_itself.text(3) == engine.text(3)


def scores(engine: Engine, sequence: Sequence) -> Iterable[Scored]:
    """Of the sequence's prompt, through the runner's steps."""
    found = list[Scored]()
    engine.add(sequence)
    while (step := engine.scheduler.next_step()) is not None:
        results = engine.runner.run(step)
        engine.scheduler.apply(step, results, 0.05)
        found += results.prompt.get(sequence.id, ())
    return found


def test_a_text_is_scored_as_it_was_sampled(model: Model, alone: Said) -> None:
    """The log-probabilities of a prompt are those that its tokens had when they were generated."""
    tokens = [*model.prompt(200, 1), *(token for token, _ in alone)]
    request = model.request(tokens=tokens, max_new_tokens=0, prompt_alternatives=0)
    scored = list(scores(Engine(model, step_tokens=64), request))
    assert [(one.token, one.logprob) for one in scored[-NEW:]] == alone

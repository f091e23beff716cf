"""Beam search says what transformers says: `generate(num_beams=...)` with tiny models of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers

from models.config import DecoderConfig, Seq2SeqConfig
from models.kv_cache import KVCache
from models.loading import LoadedDecoder, load
from models.loading_seq2seq import LoadedSeq2Seq
from server.execution.generation import DecoderRunner
from server.execution.runner import Runner
from server.request import Beams, EarlyStopping, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence

CPU = torch.device("cpu")
VOCABULARY, START = 40, 0
STOPPING = {True: EarlyStopping.AT_ONCE, False: EarlyStopping.WHEN_UNLIKELY, "never": EarlyStopping.NEVER}
MODELS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ),
    "t5": lambda: transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    ),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A model as the oracle has it, and as we load it from its files."""

    name: str
    oracle: Any
    loaded: LoadedDecoder | LoadedSeq2Seq

    @property
    def sources(self) -> bool:
        return isinstance(self.loaded, LoadedSeq2Seq)

    def expected(self, prompt: list[int], **options: Any) -> list[int]:
        """What is said after `prompt`, or for it, where an encoder reads it."""
        tokens = torch.tensor([prompt])
        said = self.oracle.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, pad_token_id=0, **options
        )
        new: list[int] = said[0, len([START] if self.sources else prompt) :].tolist()
        return new

    def said(self, sequence: Sequence) -> list[int]:
        """By scheduler and runner, in chunks, on hardly more blocks than are needed."""
        assert sequence.beams is not None
        blocks = -(-64 // 4) * sequence.beams.width
        lane = GenerationLane(
            "m", BlockPool(blocks, 4), max_batch_tokens=11, max_sequences=4, sources=self.sources
        )
        scheduler, runner = Scheduler({"m": lane}), Runner({"m": self._runner(blocks)})
        scheduler.generate("m", sequence)
        while (step := scheduler.next_step()) is not None:
            assert isinstance(step, DecodeStep)
            scheduler.apply(step, runner.run(step), 0.01)
        assert lane.blocks.num_free == blocks
        return sequence.tokens[sequence.prompt_length :]

    def _runner(self, blocks: int) -> DecoderRunner:
        config: DecoderConfig | Seq2SeqConfig = self.loaded.config
        config = config.decoder if isinstance(config, Seq2SeqConfig) else config
        cache = KVCache(config, num_blocks=blocks, block_size=4, device=CPU, dtype=torch.float32)
        model = self.loaded.model if isinstance(self.loaded, LoadedSeq2Seq) else self.loaded.decoder
        return DecoderRunner(model, cache, CPU)


@pytest.fixture(scope="module", params=[(name, seed) for name in MODELS for seed in range(3)], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    name, seed = request.param
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    folder = tmp_path_factory.mktemp(name)
    kind = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
    oracle = kind.from_config(MODELS[name]()).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)  # so that it prefers some tokens
    oracle.save_pretrained(folder)
    loaded = load(Path(folder), device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder | LoadedSeq2Seq)
    yield Pair(f"{name} {seed}", oracle, loaded)
    torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of both: of the oracle by its names, of us by ours."""

    prompt: list[int]
    options: dict[str, Any]
    sampling: Sampling

    def sequence(self, *, sources: bool) -> Sequence:
        options = self.options
        return Sequence(
            id=1,
            tokens=[START] if sources else list(self.prompt),
            source=tuple(self.prompt) if sources else (),
            max_new_tokens=options["max_new_tokens"],
            stop_tokens=frozenset(options["eos_token_id"] or ()),
            sampling=self.sampling,
            beams=Beams(
                width=options["num_beams"],
                length_penalty=options["length_penalty"],
                early_stopping=STOPPING[options["early_stopping"]],
            ),
        )


def draw_case(chance: Random) -> Case:
    vocabulary = range(VOCABULARY)
    forced: dict[str, int] = {"forced_bos_token_id": 7} if chance.random() < 0.3 else {}
    prompt = chance.choices(vocabulary, k=1 if forced else chance.randint(1, 20))
    if chance.random() < 0.3:
        forced |= {"forced_eos_token_id": 5}
    longest = chance.choice([1, 2, 12, 25])
    banned: dict[str, Any] = {
        "no_repeat_ngram_size": chance.choice([0, 0, 1, 2, 3]),
        "min_new_tokens": min(longest, chance.choice([0, 0, 3, 9])),
        "repetition_penalty": chance.choice([1.0, 1.0, 1.5]),
        "bad_words_ids": chance.choice([None, [[3], [4, 9], [11, 12]]]),
    }
    options = {
        "num_beams": chance.choice([2, 4, 8]),
        "length_penalty": chance.choice([0.0, 0.5, 1.0, 2.0, -1.0]),
        "early_stopping": chance.choice(list(STOPPING)),
        "max_new_tokens": longest,
        "eos_token_id": chance.choice(
            [None, [2], chance.sample(vocabulary, 3), chance.sample(vocabulary, 12)]
        ),
    }
    sampling = Sampling(
        temperature=0.0,
        no_repeat_ngram=banned["no_repeat_ngram_size"],
        min_new_tokens=banned["min_new_tokens"],
        repetition_penalty=banned["repetition_penalty"],
        bad_words=tuple(tuple(word) for word in banned["bad_words_ids"] or ()),
        forced_first=forced.get("forced_bos_token_id"),
        forced_last=forced.get("forced_eos_token_id"),
    )
    return Case(prompt, options | banned | forced, sampling)


@pytest.mark.parametrize("seed", range(16))
def test_the_same_tokens_win(pair: Pair, seed: int) -> None:
    case = draw_case(Random(f"{pair.name} {seed}"))
    assert pair.said(case.sequence(sources=pair.sources)) == pair.expected(case.prompt, **case.options)


@pytest.mark.parametrize("stopping", list(STOPPING))
@pytest.mark.parametrize("penalty", [-1.0, 3.0])
def test_it_is_over_when_transformers_says_so(pair: Pair, stopping: Any, penalty: float) -> None:
    """Texts of which many have ended, and all still grow."""
    options = {
        "num_beams": 3,
        "length_penalty": penalty,
        "early_stopping": stopping,
        "max_new_tokens": 30,
        "eos_token_id": list(range(1, VOCABULARY, 8)),
    }
    case = Case([9, 4, 30], options, Sampling(temperature=0.0))
    assert pair.said(case.sequence(sources=pair.sources)) == pair.expected(case.prompt, **options)

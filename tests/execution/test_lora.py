"""Adapters in the engine: same seed, same text, in any company; and no text is found under another's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers

from models.config import Pooling
from models.decoder import Decoder
from models.kv_cache import KVCache
from models.loading import LoadedDecoder, load
from models.loading_encoder import LoadedEncoder
from models.lora import attach
from models.lora_folder import read_lora
from models.native.library import Library
from models.sentence import Sentence
from models.target import Target
from server.engine.exchange import to_sequence
from server.engine.messages import Generate, Standing
from server.errors import InvalidRequest
from server.execution.adapters import Base, LoadedAdapters
from server.execution.encoding import EncoderRunner
from server.execution.generation import DecoderRunner
from server.execution.runner import Runner
from server.request import Beams, EmbedWork, MaskWork, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import EncodeStep
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage
from tests.execution.loras import llama, write_lora
from tests.execution.test_generation import CONFIG, CPU

torch.set_num_threads(1)
ADAPTERS = ("a", "b")
HIDDEN = 32
BERT = {"attention.self.query": (32, 32), "output.dense": (64, 32)}
Text = tuple[tuple[int, ...], tuple[float, ...]]  # tokens, and their log-probabilities


def kernels_of(request: pytest.FixtureRequest, computing: str) -> Library | None:
    """None: PyTorch computes."""
    found: Library | None = request.getfixturevalue("kernels") if computing == "kernels" else None
    return found


@pytest.fixture(
    scope="module", params=product([torch.float32, torch.bfloat16], ["torch", "kernels"]), ids=str
)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedDecoder:
    """Ready to run, as it is served, with two adapters of different ranks."""
    dtype, computing = request.param
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    for parameter in decoder.parameters():
        parameter.data = (parameter.data * 3).to(dtype)
    decoder.requires_grad_(False)
    Target(device=CPU, dtype=dtype, packed=True, kernels=kernels_of(request, computing)).finish(decoder)
    loaded = LoadedDecoder(config=CONFIG, decoder=decoder, fingerprint="fp", parameters=1)
    for rank, name in enumerate(ADAPTERS, start=3):
        folder = write_lora(tmp_path_factory.mktemp("loras") / name, llama(CONFIG), rank=rank, seed=rank)
        attach(loaded, read_lora(folder), name)
    return loaded


def encoder_with(name: str, folder: Path, kernels: Library | None = None) -> LoadedEncoder:
    """A BERT of random weights, and an adapter of its queries and of what leaves the MLP."""
    oracle = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=64,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
        )
    )
    oracle.save_pretrained(folder / "base")
    sizes = {
        f"bert.encoder.layer.{layer}.{module}": size for layer in (0, 1) for module, size in BERT.items()
    }
    loaded = load(folder / "base", device=CPU, dtype=torch.float32, kernels=kernels)
    assert isinstance(loaded, LoadedEncoder)
    attach(loaded, read_lora(write_lora(folder / name, sizes)), name)
    return loaded


def generate(id_: int, lora: str | None, *, prompt: int = 0, **rest: Any) -> Generate:
    """Every prompt with a seed of its own; they begin alike, so that some of each is found in the cache."""
    command = Generate(
        id=id_,
        model="m",
        tokens=[*range(3, 23), 30 + prompt, 2, 9],
        max_new_tokens=12,
        sampling=Sampling(temperature=0.8, seed=prompt),
        stop_tokens=[],
        lora=lora,
    )
    return msgspec.structs.replace(command, **rest)


class Engine:
    """A scheduler over a real decoder. `prompts`: the scores of prompts, by id."""

    def __init__(self, loaded: LoadedDecoder, *, tokens: int = 256, step_tokens: int = 16) -> None:
        """Its cache has room for so many tokens."""
        native = loaded.decoder.program is not None
        self.block_size = 16 if native else 4  # the kernels take so many at a time
        blocks = tokens // self.block_size
        cache = KVCache(
            CONFIG,
            num_blocks=blocks,
            block_size=self.block_size,
            device=CPU,
            dtype=loaded.decoder.embeddings.words.weight.dtype,
            for_kernels=native,
        )
        self.lane = GenerationLane(
            "m", BlockPool(blocks, self.block_size), max_batch_tokens=step_tokens, max_sequences=8
        )
        self.prompts = defaultdict[int, list[float]](list)
        self._scheduler = Scheduler({"m": self.lane}, itl_target_s=10.0)
        self._runner = Runner({"m": DecoderRunner(loaded.decoder, cache, CPU)})

    def run(self, *commands: Generate) -> dict[int, Text]:
        sequences = [to_sequence(command) for command in commands]
        for sequence in sequences:
            self._scheduler.generate("m", sequence)
        scores = defaultdict[int, list[float]](list)
        while (step := self._scheduler.next_step()) is not None:
            results = self._runner.run(step)
            self._scheduler.apply(step, results, 0.001)
            for id_, sampled in results.sampled.items():
                scores[id_] += [one.logprob for one in sampled.tokens]
            for id_, prompt in results.prompt.items():
                self.prompts[id_] += [one.logprob for one in prompt]
        return {one.id: (tuple(one.tokens[one.prompt_length :]), tuple(scores[one.id])) for one in sequences}


def crowd() -> Iterator[Generate]:
    for id_ in range(1, 10):
        yield generate(id_, (None, *ADAPTERS)[id_ % 3], prompt=id_ // 3)


def test_texts_with_adapters_are_the_same_in_any_company(loaded: LoadedDecoder) -> None:
    alone = {command.id: Engine(loaded).run(command)[command.id] for command in crowd()}
    assert Engine(loaded).run(*crowd()) == alone
    assert Engine(loaded, step_tokens=7).run(*crowd()) == alone
    tight = Engine(loaded, tokens=64)
    assert tight.run(*crowd()) == alone
    assert tight.lane.preemptions, "there was too little memory for all of them"


def test_each_adapter_changes_the_text(loaded: LoadedDecoder) -> None:
    texts = Engine(loaded).run(generate(1, None), generate(2, "a"), generate(3, "b"))
    assert len(set(texts.values())) == 3


def test_a_prompt_is_found_only_under_the_same_adapter(loaded: LoadedDecoder) -> None:
    engine = Engine(loaded)
    found = list[int]()
    for id_, lora in enumerate((None, "a", "b", "a", None), start=1):
        before = engine.lane.cached_tokens
        engine.run(generate(id_, lora))
        found.append(engine.lane.cached_tokens - before)
    whole = 20 // engine.block_size * engine.block_size
    assert found == [0, 0, 0, whole, whole]


def test_a_salt_cannot_pretend_to_be_an_adapter() -> None:
    salts = [to_sequence(generate(1, lora, standing=Standing(salt=salt))).salt for lora, salt in SALTED]
    assert len(set(salts)) == len(SALTED)


SALTED = [(None, b""), ("a", b""), ("a", b"b"), ("ab", b""), ("a b", b""), ("a", b" b"), (None, b"0:a")]


def test_beams_follow_their_adapter(loaded: LoadedDecoder) -> None:
    def search(lora: str | None) -> Generate:
        id_ = (None, *ADAPTERS).index(lora)
        return generate(id_, lora, sampling=Sampling(temperature=0.0), beams=Beams(width=3))

    together = Engine(loaded).run(search(None), search("a"), search("b"))
    for id_, lora in enumerate((None, *ADAPTERS)):
        assert Engine(loaded).run(search(lora))[id_] == together[id_]
    assert together[0] != together[1] != together[2]


def test_scores_of_a_prompt_follow_the_adapter(loaded: LoadedDecoder) -> None:
    engine = Engine(loaded)
    wanted = {"max_new_tokens": 0, "prompt_alternatives": 0}
    engine.run(*(generate(id_, lora, **wanted) for id_, lora in enumerate((None, "a", "a"))))
    assert [len(scores) for scores in engine.prompts.values()] == [22, 22, 22]
    assert engine.prompts[0] != engine.prompts[1] == engine.prompts[2]


@pytest.mark.parametrize("computing", ["torch", "kernels"])
def test_passages_are_read_with_their_adapters(
    request: pytest.FixtureRequest, computing: str, tmp_path: Path
) -> None:
    loaded = encoder_with("a", tmp_path, kernels_of(request, computing))
    runner = EncoderRunner(loaded.encoder, loaded.masked_lm, Sentence([Pooling.MEAN], [], HIDDEN), CPU)
    texts = [(None, (2, 5, 7)), ("a", (2, 5, 7)), ("a", (4, 2, 5, 7, 9)), (None, (8,))]
    works: tuple[EmbedWork | MaskWork, ...] = (EmbedWork(), MaskWork(positions=(0,), top_k=3))
    passages = [
        Passage(id=id_, tokens=tokens, work=work, lora=lora)
        for id_, ((lora, tokens), work) in enumerate(product(texts, works))
    ]
    together = runner.run(EncodeStep(model="bert", passages=tuple(passages))).encoded
    for passage in passages:
        alone = runner.run(EncodeStep(model="bert", passages=(passage,))).encoded
        assert alone[passage.id] == together[passage.id]
    assert together[0] != together[2]
    assert together[1] != together[3]


def test_loading_reports_what_is_wrong_without_saying_where(loaded: LoadedDecoder, tmp_path: Path) -> None:
    adapters = LoadedAdapters({"m": Base(loaded, "fp_base")})
    folder = write_lora(tmp_path / "secret" / "c", llama(CONFIG))
    fingerprint = adapters.attach("m", "c", str(folder))
    other = adapters.attach("m", "other", str(write_lora(tmp_path / "other", llama(CONFIG), seed=9)))
    assert len({"fp_base", fingerprint, other}) == 3
    for name in ("c", "other", "never"):
        adapters.detach("m", name)
    (folder / "adapter_config.json").write_text('{"r": 4, "use_dora": true, "target_modules": ["q_proj"]}')
    with pytest.raises(InvalidRequest, match=r"the adapter/adapter_config\.json: .*use_dora") as refused:
        adapters.attach("m", "c", str(folder))
    assert "secret" not in str(refused.value)
    assert refused.value.parameter == "lora_path"
    with pytest.raises(InvalidRequest, match="t5 takes no adapters") as refused:
        adapters.attach("t5", "c", str(folder))
    assert refused.value.parameter == "model"

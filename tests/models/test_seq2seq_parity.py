"""Every family of encoder-decoders computes what `transformers` computes, from the files that it saves.

The same checks for every configuration of the table; a family only adds entries to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.config import Head
from models.errors import UnsupportedModel, WeightsMismatch
from models.loading import load
from models.loading_seq2seq import LoadedSeq2Seq
from tests.models.paged import CPU
from tests.models.paged_seq2seq import Session
from tests.models.parity import report
from tests.models.seq2seq_configs import CONFIGS


@dataclass(frozen=True, slots=True)
class Pair:
    """A model of random weights as the oracle has it, and as we load it from its files."""

    oracle: Any
    loaded: LoadedSeq2Seq
    family: str
    config: str

    def open_session(self, sources: dict[str, list[int]], *, block_size: int = 16) -> Session:
        session = Session(self.loaded.model, block_size=block_size)
        session.encode(sources)
        return session

    @torch.inference_mode()
    def expected_logits(self, source: list[int], answer: list[int]) -> Tensor:
        """[answer, vocab]"""
        both = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([answer])}
        logits: Tensor = self.oracle(**both).logits[0]
        return logits

    def check(self, name: str, error: float, *, limit: float) -> None:
        report(self.family, self.config, name, error)
        assert error <= limit


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Quickest for small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, _, config = str(request.param).partition(", ")
    folder = tmp_path_factory.mktemp("model")
    oracle = make_oracle(CONFIGS[request.param]())
    oracle.save_pretrained(folder)
    return Pair(oracle, load_seq2seq(folder), family, config)


@torch.no_grad()
def make_oracle(config: Any) -> Any:
    """Biases, norms and the bias on the logits, too, are not what they start as; tables of sines are."""
    torch.manual_seed(0)
    oracle = transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    for tensor in learnt(oracle):
        tensor.add_(torch.randn_like(tensor) * 0.1)
    return oracle


def learnt(oracle: Any) -> list[Tensor]:
    """Parameters, and the bias on the logits, which transformers keeps as a buffer."""
    biases = [buffer for name, buffer in oracle.named_buffers() if name == "final_logits_bias"]
    return [parameter for parameter in oracle.parameters() if parameter.requires_grad] + biases


def load_seq2seq(folder: Path) -> LoadedSeq2Seq:
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedSeq2Seq)
    return loaded


def tokens_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 96, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def largest(difference: Tensor) -> float:
    return float(difference.abs().max())


SOURCES = {"a": tokens_of(45, 1), "b": tokens_of(1, 2), "c": tokens_of(150, 3), "d": tokens_of(33, 4)}
ANSWERS = {"a": tokens_of(9, 5), "b": tokens_of(140, 6), "c": tokens_of(33, 7), "d": tokens_of(1, 8)}


@torch.inference_mode()
def test_sources_are_encoded_as_by_the_reference(pair: Pair) -> None:
    lengths = [len(source) for source in SOURCES.values()]
    tokens = torch.tensor([token for source in SOURCES.values() for token in source])
    hidden = pair.loaded.model.encoder(tokens, lengths).split_with_sizes(lengths)
    encode = pair.oracle.get_encoder()
    errors = [
        largest(ours - encode(torch.tensor([source])).last_hidden_state[0])
        for ours, source in zip(hidden, SOURCES.values(), strict=True)
    ]
    pair.check("hidden", max(errors), limit=1e-4)


def test_logits_are_those_of_the_reference(pair: Pair) -> None:
    together = pair.open_session(SOURCES).step(ANSWERS.items())
    errors = [
        largest(logits - pair.expected_logits(SOURCES[name], answer))
        for (name, answer), logits in zip(ANSWERS.items(), together, strict=True)
    ]
    pair.check("logits", max(errors), limit=1e-4)


def test_greedy_tokens_are_those_of_the_reference(pair: Pair) -> None:
    source, prompt = SOURCES["a"], [pair.loaded.config.start]
    ours = pair.open_session({"a": source}, block_size=4).greedy("a", prompt, 20)
    expected = pair.expected_logits(source, prompt + ours)[:-1].argmax(-1).tolist()
    pair.check("greedy", sum(a != b for a, b in zip(ours, expected, strict=True)), limit=0)


def test_an_answer_in_pieces_gives_what_it_gives_at_once(pair: Pair) -> None:
    answer = ANSWERS["b"]
    (whole,) = pair.open_session(SOURCES).step([("b", answer)])
    session = pair.open_session({"b": SOURCES["b"]}, block_size=4)
    cuts = [0, 1, 2, 3, 40, 41, 110, 140]
    parts = [session.step([("b", answer[a:b])])[0] for a, b in pairwise(cuts)]
    pair.check("chunks", largest(torch.cat(parts) - whole), limit=1e-5)


def test_parameters_are_counted_once(pair: Pair) -> None:
    expected = sum(tensor.numel() for tensor in learnt(pair.oracle))
    pair.check("parameters", abs(pair.loaded.parameters - expected), limit=0)


@pytest.mark.parametrize("name", ["t5, plain", "t5, gated, logits not scaled", "mt5, plain"])
def test_a_head_that_is_stored_beside_the_words_is_used(name: str, tmp_path: Path) -> None:
    """As T5 v1.1, Flan-T5 and mT5 have it; transformers ties only what is equal."""
    oracle = make_oracle(CONFIGS[name]())
    oracle.lm_head.weight = nn.Parameter(torch.randn_like(oracle.lm_head.weight))
    oracle.save_pretrained(tmp_path)
    loaded = load_seq2seq(tmp_path)
    family, _, config = name.partition(", ")
    pair = Pair(oracle, loaded, family, f"{config}, a head of its own")
    assert loaded.config.decoder.head is Head.UNTIED
    (logits,) = pair.open_session({"a": SOURCES["a"]}).step([("a", ANSWERS["a"])])
    pair.check("logits", largest(logits - pair.expected_logits(SOURCES["a"], ANSWERS["a"])), limit=1e-4)


def test_bart_before_it_was_fine_tuned_is_a_language_model_too(tmp_path: Path) -> None:
    """Its files name tensors without the prefix, and have no bias on the logits."""
    oracle = make_oracle(CONFIGS["bart, plain"]())
    oracle.final_logits_bias.zero_()
    oracle.model.save_pretrained(tmp_path)
    pair = Pair(oracle, load_seq2seq(tmp_path), "bart", "before fine-tuning")
    (logits,) = pair.open_session({"a": SOURCES["a"]}).step([("a", ANSWERS["a"])])
    pair.check("logits", largest(logits - pair.expected_logits(SOURCES["a"], ANSWERS["a"])), limit=1e-4)


COPIES = {
    "t5, plain": ("shared", ["encoder.embed_tokens", "decoder.embed_tokens", "lm_head"]),
    "bart, plain": (
        "model.shared",
        ["model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"],
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_the_shared_table_are_held_once(name: str, tmp_path: Path) -> None:
    """As older files have them."""
    oracle = make_oracle(CONFIGS[name]())
    oracle.save_pretrained(tmp_path)
    words, copies = COPIES[name]
    change(tmp_path, {f"{copy}.weight": f"{words}.weight" for copy in copies})
    assert load_seq2seq(tmp_path).parameters == sum(tensor.numel() for tensor in learnt(oracle))


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("t5, plain", "encoder.embed_tokens"),
        ("bart, plain", "model.encoder.embed_tokens"),
        ("bart, plain", "lm_head"),
    ],
)
def test_a_copy_that_went_its_own_way_is_an_error(name: str, copy: str, tmp_path: Path) -> None:
    make_oracle(CONFIGS[name]()).save_pretrained(tmp_path)
    change(tmp_path, {f"{copy}.weight": f"{COPIES[name][0]}.weight"}, add=1.0)
    with pytest.raises(WeightsMismatch, match=f"{copy}.weight differs from .*shared.weight"):
        load_seq2seq(tmp_path)


def change(folder: Path, copies: dict[str, str], add: float = 0.0) -> None:
    """Tensors that are not there yet, as copies of others, plus a number."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors |= {name: tensors[source] + add for name, source in copies.items()}
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (transformers.T5EncoderModel, "t5, plain"),
        (transformers.BartForSequenceClassification, "bart, plain"),
        (transformers.MBartForQuestionAnswering, "mbart, plain"),
        (transformers.MarianForCausalLM, "marian, plain"),
    ],
)
def test_what_is_no_language_model_of_two_stacks_is_refused_by_name(
    kind: Any, config: str, tmp_path: Path
) -> None:
    kind(CONFIGS[config]()).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=kind.__name__):
        load_seq2seq(tmp_path)

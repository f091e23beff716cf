"""An answer does not depend on which others are computed, nor on how it or the sources were cut: bit for bit.

In float32 and bfloat16 on a CPU, where `keeps_its_bits` says so of the machine's kernels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.config import Seq2SeqConfig
from models.families import bart, t5
from models.invariance import keeps_its_bits
from models.layers.linear import prepack
from models.seq2seq import Seq2Seq
from tests.models.paged_seq2seq import Session

# Long sums, which some kernels cut in another way for few rows; scores with a learned bias, and without one.
CONFIGS = [
    t5.config(
        {
            "vocab_size": 512,
            "d_model": 192,
            "d_kv": 64,
            "d_ff": 1536,
            "num_layers": 2,
            "num_heads": 3,
            "feed_forward_proj": "gated-gelu",
            "pad_token_id": 0,
        }
    ),
    bart.config(
        {
            "vocab_size": 509,  # a multiple of no tile
            "d_model": 128,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
            "max_position_embeddings": 1024,
            "scale_embedding": True,
        }
    ),
]
LENGTHS = [(1, 5), (33, 70), (7, 140), (130, 1), (300, 33), (64, 131)]  # of sources and answers


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    if not keeps_its_bits(found):
        pytest.skip(f"this machine's kernels for {found} depend on the batch, and /info says so")
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Quickest for small tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Work:
    """Answers and sources of one model, and each answer's logits computed alone and at once."""

    def __init__(self, config: Seq2SeqConfig, dtype: torch.dtype) -> None:
        self._model, self._dtype = build(config, dtype), dtype
        self.sources = {str(i): tokens_of(length, i) for i, (length, _) in enumerate(LENGTHS)}
        self.answers = {str(i): tokens_of(length, 50 + i) for i, (_, length) in enumerate(LENGTHS)}
        self.expected = {name: self._compute_alone(name) for name in self.answers}

    def open_session(self) -> Session:
        return Session(self._model, dtype=self._dtype)

    def _compute_alone(self, name: str) -> Tensor:
        session = self.open_session()
        session.encode({name: self.sources[name]})
        return session.step([(name, self.answers[name])])[0]


def build(config: Seq2SeqConfig, dtype: torch.dtype) -> Seq2Seq:
    torch.manual_seed(0)
    model = Seq2Seq(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        spread = 1.0 if parameter.ndim == 1 else parameter.shape[1] ** -0.5
        parameter.data = torch.normal(0.0, spread, parameter.shape).to(dtype)
    assert prepack(model)
    return model


def tokens_of(length: int, seed: int) -> list[int]:
    return torch.randint(0, 509, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module", params=CONFIGS, ids=[config.architecture for config in CONFIGS])
def work(request: pytest.FixtureRequest, dtype: torch.dtype) -> Work:
    return Work(request.param, dtype)


def assert_equal_rows(changed: Tensor, expected: Tensor) -> None:
    assert (changed != expected).any(dim=-1).nonzero().flatten().tolist() == []


def test_an_answer_is_the_same_beside_others_whose_sources_were_encoded_with_its_own(work: Work) -> None:
    session = work.open_session()
    session.encode(work.sources)
    for name, logits in zip(work.answers, session.step(work.answers.items()), strict=True):
        assert_equal_rows(logits, work.expected[name])


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_an_answer_is_the_same_in_pieces_of_any_size(work: Work, chunk: int) -> None:
    session = work.open_session()
    for name in ("2", "4"):
        session.encode({name: work.sources[name]})
        answer = work.answers[name][:40] if chunk == 1 else work.answers[name]
        parts = [session.step([(name, answer[at : at + chunk])])[0] for at in range(0, len(answer), chunk)]
        assert_equal_rows(torch.cat(parts), work.expected[name][: len(answer)])


def test_decoding_is_the_same_in_every_batch(work: Work) -> None:
    """Each answer goes on token by token, with one more beside it in each step."""
    session = work.open_session()
    session.encode(work.sources)
    places = dict.fromkeys(work.answers, 0)
    for count in range(1, len(work.answers) + 1):
        names = [name for name in list(work.answers)[:count] if places[name] < len(work.answers[name])]
        steps = [(name, [work.answers[name][places[name]]]) for name in names]
        for name, logits in zip(names, session.step(steps), strict=True):
            assert_equal_rows(logits, work.expected[name][places[name] : places[name] + 1])
            places[name] += 1


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_answers_are_the_same_however_steps_are_mixed(work: Work, seed: int) -> None:
    """Sources come in any company, answers go on in pieces of any size beside any others."""
    chance, session = random.Random(seed), work.open_session()
    done, waiting = dict.fromkeys(work.answers, 0), list(work.sources)
    while unfinished := [name for name in work.answers if done[name] < len(work.answers[name])]:
        if new := chance.sample(waiting, chance.randint(0, len(waiting))):
            session.encode({name: work.sources[name] for name in new})
        waiting = [name for name in waiting if name not in new]
        ready = [name for name in unfinished if name not in waiting]
        chosen = chance.sample(ready, chance.randint(min(1, len(ready)), len(ready)))
        ends = {name: done[name] + chance.choice([1, 1, 2, 5, 30, 64, 130]) for name in chosen}
        slices = [(name, work.answers[name][done[name] : end]) for name, end in ends.items()]
        for (name, tokens), logits in zip(slices, session.step(slices) if slices else [], strict=True):
            assert_equal_rows(logits, work.expected[name][done[name] : done[name] + len(tokens)])
            done[name] += len(tokens)

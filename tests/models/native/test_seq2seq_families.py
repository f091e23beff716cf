"""Every family of encoder-decoders computes on the kernels what it does in PyTorch, and keeps its bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.config import Seq2SeqConfig
from models.native.library import Library
from models.seq2seq import Seq2Seq
from tests.models import seq2seq_configs
from tests.models.native.twins import (
    FLOATS,
    PRECISIONS,
    Precision,
    Twins,
    assert_same_bits,
    config_of,
    lengthened,
    tokens_of,
)
from tests.models.paged_seq2seq import Session

LENGTHS = [(1, 5), (33, 70), (700, 1), (16, 300)]  # of sources and answers
SOURCES = {str(i): tokens_of(length, i) for i, (length, _) in enumerate(LENGTHS)}
ANSWERS = {str(i): tokens_of(length, 50 + i) for i, (_, length) in enumerate(LENGTHS)}

torch.set_num_threads(1)  # quickest for small tensors


@pytest.fixture(scope="module", params=FLOATS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return PRECISIONS[request.param]


@pytest.fixture(scope="module", params=seq2seq_configs.CONFIGS)
def twins(request: pytest.FixtureRequest, precision: Precision, kernels: Library) -> Twins[Seq2Seq]:
    config = config_of(seq2seq_configs.CONFIGS[request.param])
    assert isinstance(config, Seq2SeqConfig)
    config = replace(config, encoder=lengthened(config.encoder), decoder=lengthened(config.decoder))
    return Twins.of(Seq2Seq(config), precision, kernels)


def together(session: Session) -> Tensor:
    session.encode(SOURCES)
    return torch.cat(session.step(ANSWERS.items()))


def alone(session: Session) -> Tensor:
    """One after the other, sources too."""
    logits = list[Tensor]()
    for name, answer in ANSWERS.items():
        session.encode({name: SOURCES[name]})
        logits += session.step([(name, answer)])
    return torch.cat(logits)


def in_pieces(session: Session) -> Tensor:
    """All go on side by side, by pieces that grow."""
    session.encode(dict(reversed(SOURCES.items())))
    parts: dict[str, list[Tensor]] = {name: [] for name in ANSWERS}
    at, size = 0, 1
    while going := {name: answer for name, answer in ANSWERS.items() if len(answer) > at}:
        slices = [(name, answer[at : at + size]) for name, answer in going.items()]
        for name, logits in zip(going, session.step(slices), strict=True):
            parts[name].append(logits)
        at, size = at + size, size * 2
    return torch.cat([logits for each in parts.values() for logits in each])


def test_a_family_runs_on_the_kernels(twins: Twins[Seq2Seq]) -> None:
    assert twins.native.decoder.program is not None
    assert twins.native.encoder.program is not None
    twins.check(together(Session(twins.native, dtype=twins.dtype)), together(Session(twins.plain)))


def test_its_answers_keep_their_bits_alone_and_in_any_company(twins: Twins[Seq2Seq]) -> None:
    expected = alone(Session(twins.native, dtype=twins.dtype))
    for compute in (together, in_pieces):
        assert_same_bits(compute(Session(twins.native, dtype=twins.dtype)), expected)

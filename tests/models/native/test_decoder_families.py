"""Every family of decoders computes on the kernels what it computes in PyTorch, and keeps its bits."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import Decoder
from models.native.library import Library
from tests.models import decoder_configs_a, decoder_configs_b
from tests.models.native.twins import (
    FLOATS,
    PRECISIONS,
    Precision,
    Twins,
    assert_same_bits,
    config_of,
    configs_of,
    lengthened,
    tokens_of,
)
from tests.models.paged import Session

CONFIGS = configs_of(decoder_configs_a.CONFIGS, decoder_configs_b.CONFIGS)
TEXTS = [tokens_of(length, length) for length in (1, 5, 33, 140, 300, 700)]
STEPS = [1, 1, 2, 5, 16, 30, 64, 130, 300]

torch.set_num_threads(1)  # quickest for small tensors


@pytest.fixture(scope="module", params=FLOATS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return PRECISIONS[request.param]


@pytest.fixture(scope="module", params=CONFIGS)
def twins(request: pytest.FixtureRequest, precision: Precision, kernels: Library) -> Twins[Decoder]:
    config = config_of(CONFIGS[request.param])
    assert isinstance(config, DecoderConfig)
    return Twins.of(Decoder(lengthened(config)), precision, kernels)


def open_session(decoder: Decoder, dtype: torch.dtype = torch.float32) -> Session:
    return Session(decoder, decoder.config, dtype=dtype)


def together(session: Session) -> list[Tensor]:
    return session.step((str(i), text) for i, text in enumerate(TEXTS))


def mixed(session: Session, chance: random.Random) -> list[Tensor]:
    """In steps that mix single tokens and pieces of texts that come and go."""
    parts: list[list[Tensor]] = [[] for _ in TEXTS]
    left = {i: list(text) for i, text in enumerate(TEXTS)}
    while left:
        taken = {i: chance.choice(STEPS) for i in chance.sample(sorted(left), chance.randint(1, len(left)))}
        slices = [(str(i), left[i][:count]) for i, count in taken.items()]
        for i, logits in zip(taken, session.step(slices), strict=True):
            parts[i].append(logits)
        left = {i: rest for i, tokens in left.items() if (rest := tokens[taken.get(i, 0) :])}
    return [torch.cat(each) for each in parts]


def test_a_family_runs_on_the_kernels(twins: Twins[Decoder]) -> None:
    assert twins.native.program is not None
    expected = together(open_session(twins.plain))
    actual = together(open_session(twins.native, twins.dtype))
    twins.check(torch.cat(actual), torch.cat(expected))


def test_its_texts_keep_their_bits_alone_and_in_any_company(twins: Twins[Decoder]) -> None:
    alone = [open_session(twins.native, twins.dtype).step([("text", text)])[0] for text in TEXTS]
    assert_same_bits(torch.cat(together(open_session(twins.native, twins.dtype))), torch.cat(alone))
    cut = mixed(open_session(twins.native, twins.dtype), random.Random(0))
    assert_same_bits(torch.cat(cut), torch.cat(alone))

"""Every family of encoders computes on the kernels what it computes in PyTorch, and keeps its bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import MaskedLM, MaskedLMHead
from models.native.attach import runs_apart
from models.native.library import Library
from tests.models import encoder_configs
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

TEXTS = [tokens_of(length, length) for length in (1, 5, 16, 33, 140, 300, 700)]

torch.set_num_threads(1)  # quickest for small tensors


@pytest.fixture(scope="module", params=FLOATS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return PRECISIONS[request.param]


@pytest.fixture(scope="module", params=encoder_configs.CONFIGS)
def twins(request: pytest.FixtureRequest, precision: Precision, kernels: Library) -> Twins[MaskedLM]:
    config = config_of(encoder_configs.CONFIGS[request.param])
    assert isinstance(config, EncoderConfig)
    encoder = Encoder(lengthened(config))
    return Twins.of(
        MaskedLM(encoder, MaskedLMHead(encoder.config, encoder.embeddings.words)), precision, kernels
    )


@torch.inference_mode()
def logits(model: MaskedLM, texts: list[list[int]]) -> Tensor:
    tokens = torch.tensor([token for text in texts for token in text])
    found: Tensor = model(tokens, [len(text) for text in texts], torch.arange(len(tokens)))
    return found


def test_a_family_runs_on_the_kernels(twins: Twins[MaskedLM]) -> None:
    assert (twins.native.encoder.program is None) == runs_apart(twins.native.encoder)
    twins.check(logits(twins.native, TEXTS), logits(twins.plain, TEXTS))


def test_its_texts_keep_their_bits_alone_and_in_any_company(twins: Twins[MaskedLM]) -> None:
    alone = [logits(twins.native, [text]) for text in TEXTS]
    assert_same_bits(logits(twins.native, TEXTS), torch.cat(alone))
    assert_same_bits(logits(twins.native, TEXTS[::-1]), torch.cat(alone[::-1]))
    assert_same_bits(logits(twins.native, TEXTS[1:4] * 3), torch.cat(alone[1:4] * 3))

"""Every family computes with weights of few bits what PyTorch does with the numbers that these stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.config import DecoderConfig, EncoderConfig, Seq2SeqConfig
from models.decoder import Decoder
from models.encoder import Encoder
from models.heads import MaskedLM, MaskedLMHead
from models.native.library import Library
from models.seq2seq import Seq2Seq
from tests.models import (
    decoder_configs_a,
    decoder_configs_b,
    encoder_configs,
    paged,
    paged_seq2seq,
    seq2seq_configs,
)
from tests.models.native.twins import (
    PRECISIONS,
    Precision,
    Twins,
    assert_same_bits,
    config_of,
    configs_of,
    lengthened,
    plainest,
    tokens_of,
)

DECODERS = plainest(configs_of(decoder_configs_a.CONFIGS, decoder_configs_b.CONFIGS))
ENCODERS = plainest(encoder_configs.CONFIGS)
SEQ2SEQS = plainest(seq2seq_configs.CONFIGS)
TEXTS = {str(length): tokens_of(length, length) for length in (1, 33, 140)}

torch.set_num_threads(1)  # quickest for small tensors


@pytest.fixture(params=["int8", "int4"])
def precision(request: pytest.FixtureRequest) -> Precision:
    return PRECISIONS[request.param]


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_of_few_bits(name: str, precision: Precision, kernels: Library) -> None:
    config = config_of(DECODERS[name])
    assert isinstance(config, DecoderConfig)
    twins = Twins.of(Decoder(lengthened(config)), precision, kernels)
    found = decoded(twins.native, *TEXTS)
    twins.check(found, decoded(twins.plain, *TEXTS))
    assert_same_bits(found, torch.cat([decoded(twins.native, text) for text in TEXTS]))


def decoded(decoder: Decoder, *texts: str) -> Tensor:
    return torch.cat(paged.Session(decoder, decoder.config).step((text, TEXTS[text]) for text in texts))


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_few_bits(name: str, precision: Precision, kernels: Library) -> None:
    config = config_of(ENCODERS[name])
    assert isinstance(config, EncoderConfig)
    encoder = Encoder(lengthened(config))
    model = MaskedLM(encoder, MaskedLMHead(encoder.config, encoder.embeddings.words))
    twins = Twins.of(model, precision, kernels)
    found = filled(twins.native, *TEXTS)
    twins.check(found, filled(twins.plain, *TEXTS))
    assert_same_bits(found, torch.cat([filled(twins.native, text) for text in TEXTS]))


@torch.inference_mode()
def filled(model: MaskedLM, *texts: str) -> Tensor:
    tokens = torch.tensor([token for text in texts for token in TEXTS[text]])
    found: Tensor = model(tokens, [len(TEXTS[text]) for text in texts], torch.arange(len(tokens)))
    return found


@pytest.mark.parametrize("name", SEQ2SEQS)
def test_an_encoder_decoder_of_few_bits(name: str, precision: Precision, kernels: Library) -> None:
    config = config_of(SEQ2SEQS[name])
    assert isinstance(config, Seq2SeqConfig)
    config = replace(config, encoder=lengthened(config.encoder), decoder=lengthened(config.decoder))
    twins = Twins.of(Seq2Seq(config), precision, kernels)
    found = answered(twins.native, *TEXTS)
    twins.check(found, answered(twins.plain, *TEXTS))
    assert_same_bits(found, torch.cat([answered(twins.native, text) for text in TEXTS]))


def answered(model: Seq2Seq, *texts: str) -> Tensor:
    """Answers are as long as their sources."""
    session = paged_seq2seq.Session(model)
    session.encode({text: TEXTS[text] for text in texts})
    return torch.cat(session.step((text, TEXTS[text][::-1]) for text in texts))

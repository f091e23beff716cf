"""Adapters on the kernels: what they change is what they change in PyTorch; other rows keep their bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.config import DecoderConfig, EncoderConfig
from models.decoder import Decoder
from models.encoder import Encoder
from models.layers.linear import Linear
from models.layers.lora import LowRank, Mixing
from models.native.library import Library
from tests.models import decoder_configs_a, decoder_configs_b, encoder_configs
from tests.models.native.twins import (
    FLOATS,
    PRECISIONS,
    AnyModel,
    Precision,
    Twins,
    assert_same_bits,
    config_of,
    configs_of,
    lengthened,
    plainest,
    tokens_of,
)
from tests.models.paged import CPU, Session

RANK = 3
LORAS = {"one": "a", "two": "b", "three": "a"}  # of texts, by their names; "none" runs with none
TEXTS = {"one": tokens_of(21), "none": tokens_of(40, 1), "two": tokens_of(1, 2), "three": tokens_of(150, 3)}

torch.set_num_threads(1)  # quickest for small tensors


DECODERS = plainest(configs_of(decoder_configs_a.CONFIGS, decoder_configs_b.CONFIGS))
ENCODERS = plainest(encoder_configs.CONFIGS)


@pytest.fixture(scope="module", params=[*FLOATS, "int8"])
def precision(request: pytest.FixtureRequest) -> Precision:
    return PRECISIONS[request.param]


@pytest.fixture(scope="module", params=DECODERS)
def decoders(request: pytest.FixtureRequest, precision: Precision, kernels: Library) -> Twins[Decoder]:
    config = config_of(DECODERS[request.param])
    assert isinstance(config, DecoderConfig)
    return adapted(Twins.of(Decoder(lengthened(config)), precision, kernels))


@pytest.fixture(scope="module", params=ENCODERS)
def encoders(request: pytest.FixtureRequest, precision: Precision, kernels: Library) -> Twins[Encoder]:
    config = config_of(ENCODERS[request.param])
    assert isinstance(config, EncoderConfig)
    return adapted(Twins.of(Encoder(lengthened(config)), precision, kernels))


def adapted(twins: Twins[AnyModel]) -> Twins[AnyModel]:
    """ "a" changes every layer of all blocks, "b" only what leaves attention."""
    generator = torch.Generator().manual_seed(1)
    for plain, native in zip(layers(twins.plain), layers(twins.native), strict=True):
        for name in ("a", "b") if plain.out_features == plain.in_features else ("a",):
            down = torch.randn(RANK, plain.in_features, generator=generator) * 0.3 * plain.in_features**-0.5
            up = torch.randn(plain.out_features, RANK, generator=generator) * 0.3
            for layer in (plain, native):
                layer.changes[name] = LowRank(down.to(twins.dtype), up.to(twins.dtype), beside=layer)
    return twins


def layers(model: nn.Module) -> Iterator[Linear]:
    for name, layer in model.named_modules():
        if "blocks." in name and isinstance(layer, Linear) and "distance" not in name:
            yield layer


def decoded(decoder: nn.Module, dtype: torch.dtype, loras: dict[str, str]) -> Tensor:
    assert isinstance(decoder, Decoder)
    return torch.cat(Session(decoder, decoder.config, dtype=dtype, loras=loras).step(TEXTS.items()))


@torch.inference_mode()
def encoded(encoder: nn.Module, loras: dict[str, str]) -> Tensor:
    mixing = Mixing.of([(loras.get(name), len(text)) for name, text in TEXTS.items()], CPU)
    tokens = torch.tensor([token for text in TEXTS.values() for token in text])
    found: Tensor = encoder(tokens, [len(text) for text in TEXTS.values()], mixing=mixing)
    return found


def of_none(rows: Tensor) -> Tensor:
    """Rows of the text that runs with no adapter."""
    each = rows.split_with_sizes([len(text) for text in TEXTS.values()])
    return each[list(TEXTS).index("none")]


def test_adapters_of_a_decoder_change_what_they_do_in_pytorch(decoders: Twins[Decoder]) -> None:
    changed, without = (decoded(decoders.native, decoders.dtype, loras) for loras in (LORAS, {}))
    decoders.check(changed, decoded(decoders.plain, torch.float32, LORAS))
    assert_same_bits(of_none(changed), of_none(without))
    assert not torch.equal(changed, without)


def test_adapters_of_an_encoder_change_what_they_do_in_pytorch(encoders: Twins[Encoder]) -> None:
    changed, without = (encoded(encoders.native, loras) for loras in (LORAS, {}))
    encoders.check(changed, encoded(encoders.plain, LORAS))
    assert_same_bits(of_none(changed), of_none(without))
    assert not torch.equal(changed, without)

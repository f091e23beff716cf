"""A text has the same bits whatever is encoded beside it, for every kind of attention that encoders have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from models.config import Activation, Bias, EncoderConfig, Local, Mlp, Norm, Residual
from models.encoder import Encoder
from models.filling import materialize
from models.invariance import keeps_its_bits
from models.layers.linear import prepack
from models.positions import Disentangled, Learned, Relative, Rotary, Sinusoidal
from tests.models.paged import CPU

BERT = EncoderConfig(
    architecture="trial",
    vocab_size=509,
    hidden_size=192,
    layers=2,
    heads=3,
    mlp_size=704,
    context_length=200,
    norm_eps=1e-5,
    activation=Activation.GELU,
    positions=Learned(rows=200),
)
DEBERTA = Disentangled(
    buckets=32,
    max_distance=200,
    shared=True,
    content_to_position=True,
    position_to_content=True,
    norm=True,
)
T5 = replace(
    BERT,
    norm=Norm.RMS,
    residual=Residual.PRE,
    embedding_norm=False,
    final_norm=True,
    positions=None,
    relative=Relative(),
    scale=1.0,
    biases=frozenset(),
)
KINDS = {
    "everything": BERT,
    "distances in the scores": T5,
    "disentangled": replace(BERT, positions=None, relative=DEBERTA),
    "windows, rotated": replace(
        BERT,
        mlp=Mlp.GATED,
        residual=Residual.PRE,
        biases=frozenset({Bias.QKV}),
        final_norm=True,
        first_norm=False,
        positions=Rotary(),
        local=Local(layers=frozenset({1}), window=16, rotary=Rotary(theta=500.0)),
    ),
    "sines": replace(BERT, positions=Sinusoidal(), embedding_scale=14.0),
}
LENGTHS = [1, 3, 33, 64, 65, 200]
TEXTS = [torch.randint(509, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def random_encoder(config: EncoderConfig, dtype: torch.dtype) -> Encoder:
    """Prepared as those that are loaded."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        encoder = Encoder(config)
    materialize(encoder, CPU, dtype)
    for parameter in encoder.parameters():
        if parameter.ndim == 1:
            parameter.normal_(mean=1.0, std=0.1, generator=generator)
        else:
            parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    prepack(encoder)
    return encoder.eval()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_text_has_the_same_bits_alone_and_in_every_company(kind: str, dtype: torch.dtype) -> None:
    if not keeps_its_bits(dtype):
        pytest.skip(f"the kernels of this machine do not keep the bits of {dtype}")
    encoder = random_encoder(KINDS[kind], dtype)
    alone = [encoder(text, [len(text)]) for text in TEXTS]
    for chosen in (range(len(TEXTS)), (2, 2, 2, 1), (4, 3, 3)):
        lengths = [LENGTHS[one] for one in chosen]
        together = encoder(torch.cat([TEXTS[one] for one in chosen]), lengths).split_with_sizes(lengths)
        assert all(map(torch.equal, (alone[one] for one in chosen), together))

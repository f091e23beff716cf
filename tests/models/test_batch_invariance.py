"""A token's value does not depend on who else is computed, nor on how its text was cut: bit for bit.

In bfloat16 on a CPU with prepacked weights. In float32 it does not hold: MKL, inside torch's fused attention,
sums in an order that depends on the batch. There only closeness is asserted, by `test_decoder_parity`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.config import Activation, Bias, DecoderConfig, Head, Learned, Mlp, Norm, Rotary
from models.decoder import Decoder
from models.layers.linear import Linear, prepack, project
from tests.models.paged import Session

pytestmark = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this processor does not multiply in bfloat16"
)

BATCHES = range(2, 18)
LLAMA = DecoderConfig(
    architecture="llama",
    vocab_size=512,
    hidden_size=192,
    layers=2,
    heads=3,
    kv_heads=1,
    head_dim=64,
    mlp_size=1536,  # long enough for a lone row to take a kernel of its own
    context_length=2048,
    norm=Norm.RMS,
    norm_eps=1e-5,
    mlp=Mlp.GATED,
    activation=Activation.SILU,
    positions=Rotary(),
    head=Head.TIED,
)
GPT2 = DecoderConfig(
    architecture="gpt2",
    vocab_size=512,
    hidden_size=128,
    layers=2,
    heads=2,
    kv_heads=2,
    head_dim=64,
    mlp_size=3072,
    context_length=2048,
    norm=Norm.LAYER,
    norm_eps=1e-5,
    mlp=Mlp.PLAIN,
    activation=Activation.GELU_TANH,
    positions=Learned(rows=2048),
    head=Head.UNTIED,
    biases=frozenset(Bias),
)


@pytest.fixture(params=[LLAMA, GPT2], ids=["llama", "gpt2"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    found: DecoderConfig = request.param
    return found


@pytest.fixture
def decoder(config: DecoderConfig) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.data = parameter.data.bfloat16()  # not `decoder.to`, which would cast the rotary buffer
    assert prepack(decoder)
    return decoder


def open_session(decoder: Decoder) -> Session:
    return Session(decoder, decoder.config, dtype=torch.bfloat16, num_blocks=512)


def tokens_of(length: int, seed: int) -> list[int]:
    return torch.randint(0, 512, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_a_decoded_token_is_the_same_alone_and_in_every_batch(decoder: Decoder) -> None:
    texts = {f"text {i}": tokens_of(1 + 37 * i, i) for i in range(max(BATCHES))}
    alone = {}
    for name, text in texts.items():
        session = open_session(decoder)
        session.step([(name, text)])
        (alone[name],) = session.step([(name, [7])])
    for size in BATCHES:
        batch = dict(list(texts.items())[:size])
        session = open_session(decoder)
        session.step(batch.items())
        for name, logits in zip(batch, session.step((name, [7]) for name in batch), strict=True):
            assert torch.equal(logits, alone[name]), f"{name} in a batch of {size}"


@pytest.mark.parametrize("chunk", [1, 2, 3, 16, 100, 128, 200])
def test_a_prompt_is_the_same_in_chunks_of_any_size(decoder: Decoder, chunk: int) -> None:
    text = tokens_of(600, 1)
    (whole,) = open_session(decoder).step([("text", text)])
    session = open_session(decoder)
    parts = [session.step([("text", text[at : at + chunk])])[0] for at in range(0, len(text), chunk)]
    changed = (torch.cat(parts) != whole).any(dim=-1).nonzero().flatten().tolist()
    assert changed == []


def test_a_prompt_is_the_same_beside_decoding_neighbours(decoder: Decoder) -> None:
    text = tokens_of(150, 1)
    (alone,) = open_session(decoder).step([("text", text)])
    session = open_session(decoder)
    session.step((f"neighbour {i}", tokens_of(50 * i + 1, i)) for i in range(5))
    *_, beside = session.step([*((f"neighbour {i}", [3]) for i in range(5)), ("text", text)])
    assert torch.equal(alone, beside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), [(576, 960), (1536, 576), (3072, 768), (48, 80)])
def test_a_row_through_a_packed_layer_is_the_same_in_every_batch(
    inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = Linear(inputs, outputs).to(dtype).requires_grad_(False)
    rows = torch.randn(128, inputs).to(dtype)
    expected = torch.nn.functional.linear(rows, layer.weight, layer.bias)
    assert prepack(layer)
    assert_each_row_alone(layer(rows), [layer(row[None])[0] for row in rows[:17]])
    for size in BATCHES:
        assert torch.equal(layer(rows[:size]), layer(rows)[:size])
    torch.testing.assert_close(layer(rows), expected, atol=1e-5 if dtype is torch.float32 else 2e-2, rtol=0)


@pytest.mark.parametrize("inputs", [576, 1536, 2048])
def test_a_row_against_a_shared_table_is_the_same_in_every_batch(inputs: int) -> None:
    torch.manual_seed(0)
    table, rows = torch.randn(2000, inputs).bfloat16(), torch.randn(32, inputs).bfloat16()
    assert_each_row_alone(project(rows, table), [project(row[None], table)[0] for row in rows[:17]])


def assert_each_row_alone(together: Tensor, alone: list[Tensor]) -> None:
    assert [i for i, row in enumerate(alone) if not torch.equal(row, together[i])] == []


def test_packing_keeps_one_copy_of_the_weight() -> None:
    layer = Linear(64, 64).bfloat16().requires_grad_(False)
    assert prepack(layer)
    assert layer.weight.numel() == 0
    assert (layer.in_features, layer.out_features) == (64, 64)


def test_a_dtype_without_packed_kernels_stays_plain() -> None:
    layer = Linear(64, 64).double().requires_grad_(False)
    assert not prepack(layer)
    assert layer.weight.shape == (64, 64)

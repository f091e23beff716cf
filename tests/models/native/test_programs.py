"""A model goes into a program or is refused by name; buffers have the memory that they need, and no more."""

from __future__ import annotations

from enum import IntEnum

import pytest
import torch
from torch import nn

from models.config import Activation, DecoderConfig
from models.decoder import Decoder
from models.errors import ModelError
from models.layers import linear
from models.layers.linear import Linear
from models.layers.lora import LowRank
from models.native import lowering
from models.native.attach import attach
from models.native.library import Library
from models.native.quantise import Packing
from models.native.structures import Format
from models.native.weights import Matrix
from tests.models import decoder_configs_b
from tests.models.native.twins import config_of

WORDS, SIZE = 70, 48


@pytest.fixture
def words(kernels: Library) -> Matrix:
    table = torch.randn(WORDS, SIZE, generator=torch.Generator().manual_seed(0))
    return Matrix(kernels, table, None, Format.FLOAT32)


@pytest.mark.parametrize(("word", "named"), [(WORDS, 70), (-1, -1), (2**40, 2**40)])
def test_a_word_that_there_is_not_is_not_looked_up(words: Matrix, word: int, named: int) -> None:
    """The last panel of a matrix has room for more rows, behind which other matrices lie."""
    with pytest.raises(IndexError, match=f"no row {named}: there are {WORDS}"):
        words.rows(torch.tensor([3, word, 5]))


def test_words_may_be_numbered_by_any_integers(words: Matrix) -> None:
    assert words.rows(torch.empty(0, dtype=torch.int64)).shape == (0, SIZE)
    assert torch.equal(
        words.rows(torch.tensor([69, 0], dtype=torch.int32)), words.rows(torch.tensor([69, 0]))
    )


def test_what_a_run_writes_elsewhere_has_no_memory_of_its_own(words: Matrix) -> None:
    words(torch.ones(300, SIZE))
    program, _, written = words._alone
    assert len(program._memory[written.index]) == 0
    assert sum(map(len, program._memory)) == 512 * 2 * 64 * 4  # what is read, and its operand


def test_words_have_a_bias_where_they_are_compared_and_none_where_they_are_looked_up(words: Matrix) -> None:
    rows, bias = torch.ones(5, SIZE), torch.arange(WORDS) / 7
    products = words(rows)
    assert torch.equal(words.with_bias(bias)(rows), products + bias)
    assert torch.equal(words(rows), products)
    assert torch.equal(words.with_bias(bias).rows(torch.arange(WORDS)), words.rows(torch.arange(WORDS)))


def test_large_products_outlive_their_matrix(words: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie in pages of their own."""
    rows = torch.ones(300, SIZE)
    expected = words(rows)
    monkeypatch.setattr("models.native.memory._RETURNED", 0)
    found = words.with_bias(torch.zeros(WORDS))(rows)
    words(2 * rows)
    assert torch.equal(found, expected)


def test_memory_that_is_not_there_is_not_counted_on(words: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    expected = words(torch.ones(300, SIZE))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", refuse)
        with pytest.raises(MemoryError):
            words(torch.ones(1000, SIZE))
    assert torch.equal(words(torch.ones(1000, SIZE))[:300], expected)


def test_every_activation_is_known() -> None:
    assert [lowering._function(each).name for each in Activation] == [each.name for each in Activation]


def test_a_model_with_a_part_that_is_not_known_is_refused_by_name(
    kernels: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = small_decoder()
    monkeypatch.setattr(lowering, "Function", IntEnum("Function", ["IDENTITY", "GELU"]))
    with pytest.raises(ModelError, match=r"no operation for the activation silu; .*--kernels torch"):
        attach(decoder, Packing(library=kernels, dtype=torch.float32))


def test_a_model_with_a_norm_of_its_own_is_refused_by_name(kernels: Library) -> None:
    decoder = small_decoder()
    decoder.norm = nn.GroupNorm(1, decoder.config.hidden_size)
    with pytest.raises(ModelError, match="no operation for the norm GroupNorm"):
        attach(decoder, Packing(library=kernels, dtype=torch.float32))


def small_decoder() -> Decoder:
    config = config_of(decoder_configs_b.CONFIGS["llama, grouped queries"])
    assert isinstance(config, DecoderConfig)
    return Decoder(config).eval().requires_grad_(False)


def test_where_pytorch_cannot_pack_an_adapter_it_is_left_as_it_is(
    kernels: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bfloat16 on processors that our kernels compute it on, and oneDNN does not."""
    monkeypatch.setattr(linear, "_can_pack", lambda dtype: False)
    monkeypatch.setattr(linear, "_pack", lambda weight: pytest.fail("packed"))
    beside = Linear(SIZE, WORDS, bias=False).to(torch.bfloat16).requires_grad_(False)
    beside.replace(Matrix(kernels, beside.weight, None, Format.BFLOAT16))
    down, up = torch.ones(2, SIZE) / SIZE, torch.ones(WORDS, 2)
    assert torch.equal(
        LowRank(down, up, beside=beside)(torch.ones(3, SIZE)).float(), torch.full((3, WORDS), 2.0)
    )

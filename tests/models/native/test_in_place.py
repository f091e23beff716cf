"""Rows are read, and a stream is written, where they lie, if they lie as the kernels want them: same bits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import Decoder
from models.kv_cache import KVCache
from models.native.attach import attach
from models.native.library import Library
from models.native.quantise import Packing
from models.native.structures import Format
from models.native.weights import Matrix
from models.ops.paging import Paging
from tests.models import decoder_configs_b
from tests.models.native.twins import config_of

CPU = torch.device("cpu")
SIZE = 64  # no padding


def apart(rows: Tensor) -> Tensor:
    """The same numbers, with others between them."""
    return torch.stack((rows, -rows), dim=-1)[..., 0]


def test_rows_that_are_not_copied_have_the_same_products_and_stay_as_they_were(kernels: Library) -> None:
    weight, rows = torch.randn(100, SIZE), torch.randn(5, SIZE)
    matrix, before = Matrix(kernels, weight, None, Format.BFLOAT16), rows.clone()
    assert torch.equal(matrix(rows), matrix(apart(rows)))
    assert torch.equal(rows, before)


def test_a_stream_in_the_place_of_the_embeddings_has_the_same_bits(kernels: Library) -> None:
    config = config_of(decoder_configs_b.CONFIGS["llama, grouped queries"])
    assert isinstance(config, DecoderConfig)
    decoder = Decoder(replace(config, hidden_size=SIZE)).eval().requires_grad_(False)
    attach(decoder, Packing(library=kernels, dtype=torch.float32))
    cache = KVCache(
        decoder.config, num_blocks=2, block_size=16, device=CPU, dtype=torch.float32, for_kernels=True
    )
    paging = Paging([[0], [1]], [0, 0], [3, 2], 16, CPU)

    def run(hidden: Tensor) -> Tensor:
        assert decoder.program is not None
        return decoder.program(hidden, torch.tensor([0, 1, 2, 0, 1]), paging, cache, None)

    hidden = torch.randn(5, SIZE)
    expected = run(apart(hidden))
    found = run(hidden)
    assert found.data_ptr() == hidden.data_ptr()
    assert torch.equal(found, expected)

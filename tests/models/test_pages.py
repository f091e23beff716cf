"""Memory from the system takes up room as it is written, and no more than that."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.kv_cache import KVCache
from models.pages import large_pages, small_pages
from tests.models.test_batch_invariance import LLAMA

MIB = 1 << 20
STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("pages", [small_pages, large_pages])
def test_memory_is_zero_and_can_be_written(pages: Callable[[int], bytearray]) -> None:
    memory = torch.frombuffer(pages(MIB + 5), dtype=torch.uint8)
    assert len(memory) == MIB + 5
    assert not memory.any()
    memory[-1] = 7
    assert int(memory.sum()) == 7


@pytest.mark.skipif(not STATM.exists(), reason="only Linux says how much is in memory")
def test_a_small_page_costs_no_large_one() -> None:
    memory = torch.frombuffer(small_pages(64 * MIB), dtype=torch.uint8)
    before = resident()
    memory[:: 2 * MIB] = 1  # where large pages would be 64 MiB
    assert resident() - before < 8 * MIB


@pytest.mark.skipif(not STATM.exists(), reason="only Linux says how much is in memory")
def test_a_cache_takes_up_no_room_before_it_is_written() -> None:
    block = KVCache.bytes_per_block(LLAMA, 16, torch.float32)
    before = resident()
    cache = KVCache(
        LLAMA, num_blocks=256 * MIB // block, block_size=16, device=torch.device("cpu"), dtype=torch.float32
    )
    cache.keys[0][0] = 1.0
    assert resident() - before < 16 * MIB
    assert not cache.values[0][0].any()

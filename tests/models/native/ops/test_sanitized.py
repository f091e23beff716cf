"""The kernels under sanitizers, which must see something: every kind of operation once, and its threads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.models.native import sanitized

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
    pytest.mark.skipif(sanitized.WATCHED is not None, reason="this is such a run"),
]
MEMORY = "address,undefined"
MEMORY_OF = "not same_bits or schedule and lengths0 and plain"
TOGETHER = "test_pool and not collapse or number_of_threads or products and formula"
PAST_THE_END = """
import ctypes
import torch
from models.native.structures import Format
from models.native.weights import Matrix
from tests.models.native.sanitized import WATCHED, open_watched

library = open_watched(WATCHED)
assert library.start("", 1)
matrix = Matrix(library, torch.ones(32, 64), None, Format.BFLOAT16)
matrix.rows(torch.arange(32))
print("until here all is well", flush=True)
matrix.outputs = matrix.weight.outputs = 64
matrix.rows(torch.arange(33))
"""


@pytest.fixture(scope="module")
def watching_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(tmp_path_factory.mktemp("sanitized"), MEMORY)


def test_what_reads_past_a_matrix_is_seen(watching_memory: Path) -> None:
    found = sanitized.run(watching_memory, MEMORY, "-c", PAST_THE_END, capture=True)
    assert found.returncode != 0
    assert "until here all is well" in found.stdout
    assert "heap-buffer-overflow" in found.stderr


def test_every_operation_keeps_to_its_memory(watching_memory: Path) -> None:
    some = [*sanitized.PYTEST, sanitized.OPERATIONS, "-k", MEMORY_OF]
    assert sanitized.run(watching_memory, MEMORY, *some).returncode == 0


def test_threads_keep_out_of_each_others_way(tmp_path: Path) -> None:
    some = [*sanitized.PYTEST, sanitized.OPERATIONS, sanitized.POOL, "-k", TOGETHER]
    assert sanitized.run(sanitized.build(tmp_path, "thread"), "thread", *some).returncode == 0

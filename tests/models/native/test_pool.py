"""The kernels' threads: asleep when there is nothing to do, none of them missed, none of them waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from models.native.library import Library
from models.native.structures import Format
from models.native.weights import Matrix
from tests.models.native.forks import holds_in_a_child

SIZE = 256


@pytest.fixture
def matrix(kernels: Library) -> Matrix:
    return Matrix(kernels, weights(), None, Format.FLOAT32)


def weights() -> Tensor:
    return torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def ones(rows: int) -> Tensor:
    return torch.ones(rows, SIZE)


def test_threads_sleep_between_requests(matrix: Matrix) -> None:
    matrix(ones(8))
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02


def test_threads_wake_whenever_there_is_work(matrix: Matrix) -> None:
    expected = matrix(ones(9))
    for pause_ms in (0, 0.05, 0.2, 1, 2, 5) * 30:
        time.sleep(pause_ms / 1000)
        assert torch.equal(matrix(ones(9)), expected)


def test_steps_of_any_size_follow_each_other(matrix: Matrix) -> None:
    """What a thread finds that comes late has more or fewer items than what it came for."""
    expected = matrix(ones(300))
    for count in (1, 300, 2, 70, 1, 129, 5) * 40:
        assert torch.equal(matrix(ones(count)), expected[:count])


def test_programs_of_several_callers_take_turns(kernels: Library) -> None:
    def multiply(_: int) -> bool:
        own = Matrix(kernels, weights(), None, Format.FLOAT32)
        return all(torch.equal(own(ones(count)), expected[:count]) for count in (1, 40, 7) * 20)

    expected = Matrix(kernels, weights(), None, Format.FLOAT32)(ones(40))
    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(multiply, range(8)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(matrix: Matrix) -> None:
    expected = matrix(ones(40))
    assert holds_in_a_child(lambda: torch.equal(matrix(ones(40)), expected))
    assert torch.equal(matrix(ones(40)), expected)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_knows_its_steps_from_those_before(kernels: Library, matrix: Matrix) -> None:
    """A thread keeps the rows that it made for a step until the next one."""
    assert kernels.start("", 2)
    once = matrix(ones(2))
    assert holds_in_a_child(lambda: torch.equal(matrix(2 * ones(2)), 2 * once))


def test_programs_beside_others_do_not_collapse(matrix: Matrix) -> None:
    """With as many neighbours as there are cores a fair share is half; what is excluded here is a wait of a
    whole time slice for every operation."""

    def steps() -> float:
        begun = time.perf_counter()
        for _ in range(300):
            matrix(ones(16))
        return time.perf_counter() - begun

    steps()
    alone = min(steps() for _ in range(3))
    with neighbours(os.cpu_count() or 1):
        beside = min(steps() for _ in range(3))
    assert beside < 20 * alone + 0.5


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that do nothing but compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_starting_anew_ends_the_threads_there_were(kernels: Library, matrix: Matrix) -> None:
    matrix(ones(8))
    running = len(os.listdir("/proc/self/task"))
    for _ in range(5):
        assert kernels.start("", 2)
        matrix(ones(8))
    assert len(os.listdir("/proc/self/task")) == running
    assert threading.active_count() <= running


def test_new_threads_know_their_steps_from_those_before(kernels: Library, matrix: Matrix) -> None:
    """A thread keeps the rows that it made for a step until the next one."""
    assert kernels.start("", 2)
    once = matrix(ones(2))
    assert kernels.start("", 2)
    assert torch.equal(matrix(2 * ones(2)), 2 * once)

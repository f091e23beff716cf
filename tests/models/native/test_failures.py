"""What the system refuses is an error with a reason, and does not end the process: tried in forked ones."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from models.native.errors import KernelError
from models.native.heads import Geometry, plain_heads
from models.native.library import Library
from models.native.program import Program
from models.native.scores import survey
from models.native.structures import Format, Kind, Run
from models.native.weights import Matrix
from tests.models.native.forks import holds_in_a_child
from tests.models.native.ops.operations import Texts, random

NOBODY = 65534
WIDE = 1 << 22  # elements of a row: what a thread keeps of such rows for itself takes 80 MB

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.skipif("TRIPTYCH_TESTED_LIBRARY" in os.environ, reason="sanitizers need much memory"),
]


@contextmanager
def no_more_memory_than(spare: int) -> Iterator[None]:
    gc.collect()
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def let_no_thread_start() -> None:
    """In a child only: it is not undone."""
    if os.geteuid() == 0:  # whom no limit binds
        os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def message_of(call: Callable[[], object]) -> str:
    try:
        call()
    except KernelError as error:
        return str(error)
    return ""


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_where_no_thread_can_be_started_there_are_fewer(kernels: Library) -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    matrix, rows = Matrix(kernels, weight, None, Format.FLOAT32), torch.ones(40, 256)
    expected = matrix(rows)

    def computes_alone() -> bool:
        let_no_thread_start()
        packed = Matrix(kernels, weight, None, Format.FLOAT32)
        return torch.equal(matrix(rows), expected) and torch.equal(packed(rows), expected) and threads() == 1

    assert holds_in_a_child(computes_alone)
    assert holds_in_a_child(lambda: torch.equal(matrix(rows), expected) and threads() == kernels.threads)


def test_a_program_that_there_is_no_memory_for_is_not_made(kernels: Library) -> None:
    def says_so() -> bool:
        with no_more_memory_than(64 << 20):
            message = message_of(lambda: kernels.program(None, 1 << 30))
        return message == "triptych_program: there is not enough memory"

    assert holds_in_a_child(says_so)


def test_a_step_that_there_is_no_memory_for_is_not_run_and_others_are(kernels: Library) -> None:
    program = Program(kernels)
    source, output = program.floats(WIDE), program.floats(WIDE)
    program.add(Kind.NORMALISE, "copy", input=source, output=output, width=WIDE)
    program.rows(source, 3)[:, :5] = 7.0

    def says_so_and_goes_on() -> bool:
        with no_more_memory_than(32 << 20):
            message = message_of(lambda: program.run(Run(tokens=3)))
        untouched = not program.rows(output, 3)[:, :5].any()
        program.run(Run(tokens=3))
        copied = torch.equal(program.rows(output, 3)[:, :5], torch.full((3, 5), 7.0))
        return message == "triptych_run: there is not enough memory" and untouched and copied

    assert holds_in_a_child(says_so_and_goes_on)


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_there_is_no_memory_to_look_at_are_an_error(kernels: Library, rows: int) -> None:
    """Whichever thread it was that had none."""
    logits = torch.zeros(rows, 1 << 24)  # all of them lead

    def look() -> object:
        return survey(kernels, logits, range(rows), [1.0] * rows, 1)

    def says_so_and_goes_on() -> bool:
        with no_more_memory_than(64 << 20):
            message = message_of(look)
        look()
        return message == "triptych_survey: there is not enough memory"

    assert holds_in_a_child(says_so_and_goes_on)


def test_a_long_prompt_attends_within_the_memory_of_its_rows(kernels: Library) -> None:
    """What each chunk of keys comes to, for every query, would take six times as much."""
    tokens, number, size = 4096, 12, 16
    geometry = Geometry(heads=number, kv_heads=1, head_dim=size, format=Format.FLOAT32)
    heads = plain_heads(geometry, scale=0.25, causal=True)
    texts = Texts(library=kernels, heads=heads, projected=[random(tokens, (number + 2) * size)])

    def attends() -> bool:
        with no_more_memory_than(32 << 20):
            (found,) = texts([[tokens]])
        return bool(found.isfinite().all())

    assert holds_in_a_child(attends)

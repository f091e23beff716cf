"""Runs the tests of operations, of threads and of models on kernels that watch themselves.

    python -m tests.models.native.sanitized address,undefined [PYTEST OPTIONS]
    python -m tests.models.native.sanitized thread [PYTEST OPTIONS]

AddressSanitizer and UndefinedBehaviorSanitizer, or ThreadSanitizer, come from the compiler. What they find
ends the run with their report. Needs GCC, whose sanitizers can be loaded before Python. It takes minutes; an
option as `-k norm` chooses some of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from models.native import building
from models.native.library import Library
from models.native.memory import Arena

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent.relative_to(ROOT)
OPERATIONS, POOL = f"{HERE}/ops", f"{HERE}/test_pool.py"
TESTS = (
    OPERATIONS,
    POOL,
    f"{HERE}/test_programs.py",
    f"{HERE}/test_adapters.py",
    f"{HERE}/test_quantised_families.py",
)
PYTEST = ("-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider")  # a report is not captured
VARIABLE = "TRIPTYCH_TESTED_LIBRARY"
WATCHED = Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None  # by a sanitizer, in such a run
RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}
FLAGS = ("-g1", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
# Python and torch free little at their end, and torch's own threads are not watched.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:report_thread_leaks=0:die_after_fork=0",
}


class Apart(Arena):
    """Gives each matrix memory by itself, so that a sanitizer sees what reads past its end."""

    def allocate(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.uint8)


def open_watched(path: Path) -> Library:
    library = Library(path)
    library.memory = Apart()
    return library


def main(sanitizers: str, *options: str) -> int:
    """Pytest's exit status; another where a sanitizer ended it."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder), sanitizers)
        return run(library, sanitizers, *PYTEST, *TESTS, *options).returncode


def build(folder: Path, sanitizers: str) -> Path:
    """Threads share the work in the same way whatever the instructions: for them the plainest are enough."""
    plainest = patch.object(building, "_knows", lambda *_: False)
    with plainest if sanitizers == "thread" else nullcontext():
        return building.build(folder, compiler="g++", extra=(*FLAGS, f"-fsanitize={sanitizers}"))


def run(
    library: Path, sanitizers: str, *arguments: str, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, where `WATCHED` is `library`."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(library, sanitizers),
        capture_output=capture,
        text=True,
        check=False,
    )


def environment(library: Path, sanitizers: str) -> Mapping[str, str]:
    preloaded = " ".join(runtime(name) for name in sanitizers.split(","))
    return {**os.environ, **OPTIONS, VARIABLE: str(library), "LD_PRELOAD": preloaded, "OMP_NUM_THREADS": "1"}


def runtime(sanitizer: str) -> str:
    """Where GCC keeps the library that must be loaded first."""
    command = ["g++", f"-print-file-name={RUNTIMES[sanitizer]}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Runs the tests of operations on kernels that watch themselves.

    python -m tests.models.native.sanitized address,undefined [PYTEST ARGUMENTS]
    python -m tests.models.native.sanitized thread

AddressSanitizer and UndefinedBehaviorSanitizer, or ThreadSanitizer, come from the compiler. What they find
ends the run with their report. Needs GCC, whose sanitizers can be loaded before Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from models.native.building import build

ROOT = Path(__file__).parents[3]
RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}
FLAGS = ("-g1", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
# Python and torch free little at their end, and torch's own threads are not watched.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:report_thread_leaks=0",
}


def main(sanitizers: str, *arguments: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder), compiler="g++", extra=(*FLAGS, f"-fsanitize={sanitizers}"))
        return run_tests(library, sanitizers.split(","), arguments or ("tests/models/native/ops",))


def run_tests(library: Path, sanitizers: Sequence[str], arguments: Sequence[str]) -> int:
    """Pytest's exit status; another where a sanitizer ended it."""
    added = {
        "TRIPTYCH_TESTED_LIBRARY": str(library),
        "LD_PRELOAD": " ".join(runtime(name) for name in sanitizers),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **OPTIONS, **added}, check=False).returncode


def runtime(sanitizer: str) -> str:
    """Where GCC keeps the library that must be loaded first."""
    command = ["g++", f"-print-file-name={RUNTIMES[sanitizer]}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

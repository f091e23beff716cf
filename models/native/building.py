"""Compiles the kernels: at install where there is a compiler, else on first use into the cache.

Only the standard library is needed, as this also runs while the project is being installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
BUILT = Path(__file__).parent / "built"  # what was compiled at install
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread")
# Products and sums stay apart unless the source joins them: else the same row could round differently in
# tiles of different sizes.
EXACT = ("-ffp-contract=off",)
WARNINGS = ("-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16")


class CannotBuild(Exception):
    """The kernels cannot be compiled here. The message says why."""


def library_name() -> str:
    """Of the shared library: it changes with the sources and how they are compiled."""
    sha = hashlib.sha256(repr((FLAGS, EXACT, _variants(), platform.machine())).encode())
    for path in sorted(SOURCE.iterdir()):
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"triptych-{sha.hexdigest()[:16]}.so"


def find_compiler() -> str | None:
    """The first of the usual names that is installed."""
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def build(folder: Path, *, extra: Sequence[str] = ()) -> Path:
    """Compile into `folder`, which is made, with `extra` flags. Raises CannotBuild; leaves nothing behind."""
    compiler = find_compiler()
    if compiler is None:
        raise CannotBuild("there is no C++ compiler (c++, g++ or clang++)")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / library_name()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            objects = list(threads.map(lambda unit: _compile(compiler, Path(work), unit, extra), _units()))
        linked = Path(work) / library.name
        _call([compiler, "-shared", *FLAGS, *extra, *objects, "-o", str(linked)])
        linked.replace(library)  # at once: another process may be looking
    return library


def _variants() -> dict[str, tuple[str, ...]]:
    """Instruction sets, by name: the best that the processor has is chosen when the server starts."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {"plain": (), "avx2": AVX2, "avx512": AVX512}
    return {"plain": ()}


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is compiled by itself: one source, the kernels once for each instruction set."""

    name: str
    source: Path
    flags: Sequence[str] = ()


def _units() -> Iterator[_Unit]:
    for name, flags in _variants().items():
        yield _Unit(name, SOURCE / "kernels.cpp", (f"-DTRIPTYCH_ISA={name}", *flags))
    for path in sorted(SOURCE.glob("*.cpp")):
        if path.stem != "kernels":
            yield _Unit(path.stem, path)


def _compile(compiler: str, work: Path, unit: _Unit, extra: Sequence[str]) -> str:
    target = str(work / f"{unit.name}.o")
    flags = (*FLAGS, *EXACT, *WARNINGS, *unit.flags, *extra)
    _call([compiler, *flags, "-c", str(unit.source), "-o", target])
    return target


def _call(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        first = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr[:200])
        raise CannotBuild(f"{command[0]} failed: {first.strip()}")

"""Compiles the kernels: at install where there is a compiler, else on first use into the cache.

Only the standard library is needed, as this also runs while the project is being installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "source"
BUILT = Path(__file__).parent / "built"  # what was compiled at install
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread")
# Products and sums stay apart unless the source joins them: else the same row could round differently in
# tiles of different sizes.
EXACT = ("-ffp-contract=off",)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16")
CORE_S = 16  # that one core compiles
PATIENCE_S = 600  # with a compiler that does not end


class CannotBuild(Exception):
    """The kernels cannot be compiled here. The message says why."""


def library_name() -> str:
    """Of the shared library: it changes with the sources and how they are compiled."""
    sha = hashlib.sha256(repr((FLAGS, EXACT, _variants(), platform.machine())).encode())
    for path in _sources():
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"triptych-{sha.hexdigest()[:16]}.so"


def find_compiler() -> str | None:
    """The first of the usual names that is installed."""
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def find_library(folder: Path) -> Path | None:
    """The one of these sources in `folder`, if it is there and whole."""
    library = folder / library_name()
    return library if _is_whole(library) else None


def build(folder: Path, *, compiler: str | None = None, extra: Sequence[str] = ()) -> Path:
    """Compile into `folder`, which is made, with `extra` flags, unless it is there. Raises CannotBuild.

    Of several processes one compiles, and the others wait for it.
    """
    compiler = compiler or find_compiler()
    if compiler is None:
        raise CannotBuild("there is no C++ compiler (c++, g++ or clang++)")
    try:
        with _alone_in(folder):
            return find_library(folder) or _build(folder, compiler, extra)
    except OSError as error:
        raise CannotBuild(f"{error.filename or folder}: {error.strerror}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it, however this process ends
        yield


def _build(folder: Path, compiler: str, extra: Sequence[str]) -> Path:
    cores = os.cpu_count() or 1
    logger.info("compiling kernels, once: about %d s", max(CORE_S // cores, CORE_S // 3))
    with tempfile.TemporaryDirectory(dir=folder) as work:
        with ThreadPoolExecutor(cores) as threads:
            objects = list(threads.map(lambda unit: _compile(compiler, Path(work), unit, extra), _units()))
        linked = Path(work) / library_name()
        _call([compiler, "-shared", *FLAGS, *extra, *objects, "-o", str(linked)])
        _seal(linked)
        return linked.replace(folder / linked.name)  # at once: another process may be looking


# A library ends with a digest of what stands before it, which the system's loader ignores: one that was cut
# off or changed on its way could take the whole process down, in the loader or later.
def _seal(library: Path) -> None:
    content = library.read_bytes()
    library.write_bytes(content + hashlib.sha256(content).digest())


def _is_whole(library: Path) -> bool:
    try:
        content = library.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _sources() -> list[Path]:
    return sorted(path for path in SOURCE.iterdir() if path.suffix in (".h", ".cpp"))


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
    for path in _sources():
        if path.suffix == ".cpp" and path.stem != "kernels":
            yield _Unit(path.stem, path)


def _compile(compiler: str, work: Path, unit: _Unit, extra: Sequence[str]) -> str:
    target = str(work / f"{unit.name}.o")
    _call([compiler, *FLAGS, *EXACT, *unit.flags, *extra, "-c", str(unit.source), "-o", target])
    return target


def _call(command: Sequence[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{command[0]} did not end within {PATIENCE_S} s") from error
    if result.returncode:
        lines = result.stderr.splitlines() or [f"status {result.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise CannotBuild(f"{command[0]} failed: {first.strip()[:300]}")

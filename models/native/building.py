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
import time
from collections.abc import Collection, Iterator, Sequence
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
PATIENCE_S = 600  # with a compiler that does not end
RETRY_S = 24 * 3600  # after which a compiler that failed is asked again: its disk may have been full


class CannotBuild(Exception):
    """The kernels cannot be compiled here. The message says why."""


class Rejected(CannotBuild):
    """The compiler ended with an error, which it would give again."""


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


def build(
    folder: Path, *, compiler: str | None = None, extra: Sequence[str] = (), again: bool = False
) -> Path:
    """Compile into `folder`, which is made, with `extra` flags, unless it is there. Raises CannotBuild.

    Of several processes one compiles, and the others wait for it. What failed is not tried again at every
    start, but with another compiler, a day later, or where that is wanted (`again`).
    """
    compiler = compiler or find_compiler()
    if compiler is None:
        raise CannotBuild("there is no C++ compiler (c++, g++ or clang++)")
    try:
        with _alone_in(folder):
            if again:
                _failure(folder).unlink(missing_ok=True)
            return find_library(folder) or _build_unless_in_vain(folder, compiler, extra)
    except OSError as error:
        raise CannotBuild(f"{error.filename or folder}: {error.strerror}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is compiling kernels: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # the system lets go of the lock, however this process ends


def _build_unless_in_vain(folder: Path, compiler: str, extra: Sequence[str]) -> Path:
    """Raises CannotBuild at once where the same compiler has rejected the same sources."""
    failure = _failure(folder)
    asked = _identify(compiler, extra)
    if failure.exists() and time.time() - failure.stat().st_mtime < RETRY_S:
        before, _, reason = failure.read_text("utf-8", "replace").partition("\n")
        if before == asked:
            raise CannotBuild(f"{reason} (not tried again for a day, or until {failure} is deleted)")
    try:
        library = _build(folder, compiler, extra)
    except Rejected as error:
        failure.write_text(f"{asked}\n{error}", "utf-8")
        raise
    failure.unlink(missing_ok=True)
    return library


def _failure(folder: Path) -> Path:
    """Where it is written what failed, and why."""
    return folder / f"{library_name()}.failed"


def _identify(compiler: str, extra: Sequence[str]) -> str:
    """Changes when another version is installed."""
    path = Path(shutil.which(compiler) or compiler).resolve()
    return repr((str(path), path.stat().st_size, path.stat().st_mtime_ns, *extra))


def _build(folder: Path, compiler: str, extra: Sequence[str]) -> Path:
    logger.info("compiling kernels, once: this may take a minute")
    unknown = [name for name, flags in _variants().items() if flags and not _knows(compiler, flags)]
    with tempfile.TemporaryDirectory(dir=folder) as work:
        with ThreadPoolExecutor(_cores()) as threads:
            units = _units(unknown)
            objects = list(threads.map(lambda unit: _compile(compiler, Path(work), unit, extra), units))
        linked = Path(work) / library_name()
        _call([compiler, "-shared", *FLAGS, *extra, *objects, "-o", str(linked)])
        _seal(linked)
        built = linked.replace(folder / linked.name)  # at once: another process may be looking
    if unknown:
        logger.warning("%s is too old for %s: the kernels do without", compiler, ", ".join(unknown))
    return built


def _cores() -> int:
    """That this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _knows(compiler: str, flags: Sequence[str]) -> bool:
    """By having it read nothing."""
    try:
        _call([compiler, *flags, "-fsyntax-only", "-x", "c++", os.devnull])
    except Rejected:
        return False
    return True


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


def _units(unknown: Collection[str] = ()) -> Iterator[_Unit]:
    """All but the variants that the compiler does not know."""
    for name, flags in _variants().items():
        if name not in unknown:
            yield _Unit(name, SOURCE / "kernels.cpp", (f"-DTRIPTYCH_ISA={name}", *flags))
    without = [f"-DTRIPTYCH_WITHOUT_{name.upper()}" for name in unknown]
    for path in _sources():
        if path.suffix == ".cpp" and path.stem != "kernels":
            yield _Unit(path.stem, path, without)


def _compile(compiler: str, work: Path, unit: _Unit, extra: Sequence[str]) -> str:
    target = str(work / f"{unit.name}.o")
    _call([compiler, *FLAGS, *EXACT, *unit.flags, *extra, "-c", str(unit.source), "-o", target])
    return target


def _call(command: Sequence[str]) -> None:
    english = ["/usr/bin/env", "LC_ALL=C", *command]  # so that what an error is can be told
    try:
        result = subprocess.run(
            english, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{command[0]} did not end within {PATIENCE_S} s") from error
    if not result.returncode:
        return
    lines = result.stderr.splitlines() or [f"status {result.returncode}"]
    first = next((line for line in lines if "error" in line), lines[0])
    killed = result.returncode < 0  # for want of memory, most likely
    raise (CannotBuild if killed else Rejected)(f"{command[0]} failed: {first.strip()[:300]}")

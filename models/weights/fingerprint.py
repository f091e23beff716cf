"""Tells what is served apart: weights without reading terabytes, and the code that computes with them."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

HEAD_BYTES = 32 * 1024 * 1024  # a GGUF file's tokenizer is in its head: 10 MiB for 256,000 tokens
WINDOW_BYTES = 64 * 1024
WINDOWS = 4096  # so files up to 256 MiB are covered whole, in about 0.1 s
SOURCES = frozenset({".py", ".c", ".cpp", ".cu", ".h"})

_Input = TypeVar("_Input")


def digest(files: Iterable[Path]) -> str:
    """32 hexadecimal digits over the files' names, sizes and contents; their folder does not matter.

    A file of up to 256 MiB is covered byte for byte. Of a larger one, the first 32 MiB are, and 4096 windows
    of 64 KiB, evenly spaced to its last byte: a retrained or requantised file differs in nearly every window;
    a single weight edited by hand in a huge file may go unseen.
    """
    sha = hashlib.sha256()
    for path in sorted(files, key=lambda file: file.name):
        size = path.stat().st_size
        sha.update(f"{path.name}\0{size}\0".encode())
        _add(sha, path, size)
    return sha.hexdigest()[:32]


def digest_soon(files: Iterable[Path]) -> Callable[[], str]:
    """Begins with the `digest` of these files at once, in a thread; the result waits for it.

    Reading and hashing hold no lock of Python's, so that meanwhile the weights are loaded on another core.
    """
    return _soon(digest, list(files))


def sha256_soon(path: Path) -> Callable[[], str]:
    """Begins in the same way with the SHA-256 of a file's content, all of it, as publishers state it."""
    return _soon(_sha256, path)


def _soon(function: Callable[[_Input], str], argument: _Input) -> Callable[[], str]:
    thread = ThreadPoolExecutor(1)
    result = thread.submit(function, argument)
    thread.shutdown(wait=False)
    return result.result


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        _add_all(sha, file, path.stat().st_size)
    return sha.hexdigest()


def digest_code(*packages: Path) -> str:
    """32 hexadecimal digits over every source file in these folders, by its path within them; or over a file
    itself.

    A version number of our own operations would be shorter, and wrong as soon as somebody forgot to raise it.
    The price: a release that only rewords a comment counts as other code.
    """
    sha = hashlib.sha256()
    for package in packages:
        for path in sorted(_sources(package)):
            content = path.read_bytes()
            sha.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
            sha.update(content)
    return sha.hexdigest()[:32]


def combine(*parts: str) -> str:
    """`fp_` and 16 hexadecimal digits: what callers see as `system_fingerprint`."""
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sources(package: Path) -> Iterator[Path]:
    paths = package.rglob("*") if package.is_dir() else [package]
    return (path for path in paths if path.suffix in SOURCES)


def _add(sha: hashlib._Hash, path: Path, size: int) -> None:
    with path.open("rb") as file:
        if size <= WINDOWS * WINDOW_BYTES:
            _add_all(sha, file, size)
        else:
            _add_windows(sha, file, size)


def _add_windows(sha: hashlib._Hash, file: BinaryIO, size: int) -> None:
    sha.update(file.read(HEAD_BYTES))
    for index in range(WINDOWS):
        file.seek(index * (size - WINDOW_BYTES) // (WINDOWS - 1))
        sha.update(file.read(WINDOW_BYTES))


def _add_all(sha: hashlib._Hash, file: BinaryIO, size: int) -> None:
    """From a mapping: a copy to memory of our own would take as long again as hashing."""
    if size:  # nothing cannot be mapped
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
            sha.update(content)

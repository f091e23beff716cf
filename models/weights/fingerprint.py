"""Tells what is served apart: weights without reading terabytes, and the code that computes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HEAD_BYTES = 32 * 1024 * 1024  # a GGUF file's tokenizer is in its head: 10 MiB for 256,000 tokens
WINDOW_BYTES = 64 * 1024
READ_BYTES = 8 * 1024 * 1024
WINDOWS = 4096  # so files up to 256 MiB are covered whole, in about 0.1 s
SOURCES = frozenset({".py", ".c", ".cpp", ".cu", ".h"})


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
    thread = ThreadPoolExecutor(1)
    digested = thread.submit(digest, list(files))
    thread.shutdown(wait=False)
    return digested.result


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
        whole = size <= WINDOWS * WINDOW_BYTES
        left = size if whole else min(HEAD_BYTES, size)
        while left and (read := file.read(min(left, READ_BYTES))):
            sha.update(read)
            left -= len(read)
        if whole:
            return
        for index in range(WINDOWS):
            file.seek(index * (size - WINDOW_BYTES) // (WINDOWS - 1))
            sha.update(file.read(WINDOW_BYTES))

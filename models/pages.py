"""Memory straight from the system: zeros that take up room page by page, as they are written."""

from __future__ import annotations

import mmap
from contextlib import suppress


def small_pages(size: int) -> mmap.mmap:
    """`size` bytes in pages of the usual size, 4 KiB on most machines. OSError where there is no room."""
    return _map(size, "MADV_NOHUGEPAGE")


def large_pages(size: int) -> mmap.mmap:
    """`size` bytes in pages of two megabytes, where the system has them. OSError where there is no room."""
    return _map(size, "MADV_HUGEPAGE")


def _map(size: int, advice: str) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has small pages
    if hasattr(mmap, advice):
        with suppress(OSError):  # a kernel that was built without large pages
            memory.madvise(getattr(mmap, advice))
    return memory

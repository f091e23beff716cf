"""Reads the metadata of a GGUF file: names and values, vocabularies included.

`models.weights.gguf_file` reads the same format for the tensors' sake. The two share nothing, because text
must not import models; the `gguf` package's reader takes 2.5 s over 49k tokens, this one 0.1 s.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from server.text.errors import TokenizerUnusable

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_metadata(path: Path) -> dict[str, Any]:
    """Every key with its value. Raises TokenizerUnusable where the file is none, or ends within them."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise TokenizerUnusable(path, "it is not a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).read()
    except OSError as error:
        raise TokenizerUnusable(path, f"it cannot be read ({error.strerror})") from error
    except (struct.error, ValueError) as error:
        raise TokenizerUnusable(path, f"its metadata is cut or garbled ({error})") from error


class _Reader:
    """Walks over the bytes once. Raises struct.error or ValueError where they make no sense."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def read(self) -> dict[str, Any]:
        version = self._scalar("I")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}; 2 and 3 are supported")
        _tensors, keys = self._scalar("Q"), self._scalar("Q")
        return {self._string(): self._value(self._scalar("I")) for _ in range(keys)}

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._scalar("I"), self._scalar("Q"))
        return self._scalar(self._layout(kind))

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        layout = f"<{count}{self._layout(kind)}"
        size = struct.calcsize(layout)
        if size > len(self._data) - self._at:
            raise ValueError(f"an array of {count} goes beyond the end")
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += size
        return list(values)

    def _layout(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(f"unknown metadata type {kind}")
        return _SCALARS[kind]

    def _scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(f"<{layout}", self._data, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return value

    def _string(self) -> str:
        (length,) = struct.unpack_from("<Q", self._data, self._at)
        start = self._at + 8
        self._at = start + length
        if self._at > len(self._data):
            raise ValueError("a string goes beyond the end")
        return self._data[start : self._at].decode("utf-8")

"""A list of operations over buffers of rows, run by all threads in one go."""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from models.native.library import Library
from models.native.structures import (
    ALIGNMENT,
    BLOCK_TOKENS,
    NONE,
    Format,
    Heads,
    Kind,
    Operation,
    Run,
    View,
    Weight,
)

FEWEST_ROWS = 16  # that buffers have room for


def padded(width: int, multiple: int = ALIGNMENT) -> int:
    return -(-width // multiple) * multiple


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """Rows that operations read and write: floats, or operands of products in `format`.

    `outside`: they lie where each run says by its `results`, and have no memory of their own.
    """

    index: int
    width: int
    format: Format | None = None
    outside: bool = False


def fits(rows: Tensor, buffer: Buffer) -> bool:
    """Whether rows [T, width] lie as the kernels want those of a buffer, so that none need be copied."""
    return rows.dtype is torch.float32 and rows.shape[1] == buffer.width and rows.is_contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """Whose rows a step has: each slice's rows, and where keys and values of its sequence lie.

    Arrays of 32-bit integers, as Python has them: made for each step, and in half the time of NumPy's.
    """

    rows: array[int]
    starts: array[int]
    lengths: array[int]
    tables: array[int]
    blocks: array[int]

    @classmethod
    def of(
        cls,
        tables: Sequence[Sequence[int]],
        starts: Sequence[int],
        counts: Sequence[int],
        lengths: Sequence[int],
        block_size: int,
    ) -> Slices:
        share = block_size // BLOCK_TOKENS
        used = [-(-length // block_size) for length in lengths]
        blocks = [block for table, count in zip(tables, used, strict=True) for block in table[:count]]
        if share > 1:
            blocks = [block * share + piece for block in blocks for piece in range(share)]
        return cls(
            rows=starts_of(counts),
            starts=array("i", starts),
            lengths=array("i", lengths),
            tables=starts_of([count * share for count in used]),
            blocks=array("i", blocks),
        )

    def fill(self, view: View) -> None:
        view.slices = len(self.starts)
        view.rows, view.starts = self.rows.buffer_info()[0], self.starts.buffer_info()[0]
        view.lengths, view.tables = self.lengths.buffer_info()[0], self.tables.buffer_info()[0]
        view.blocks = self.blocks.buffer_info()[0]


def starts_of(counts: Iterable[int]) -> array[int]:
    """Where each begins among all that lie end to end, and where the last ends."""
    return array("i", accumulate(counts, initial=0))


class Program:
    """Operations are added once, and run for every step."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.buffers = list[Buffer]()
        self.operations = list[Operation]()
        self.names = list[str]()
        self.matrices = list[Weight | None]()  # of each operation
        self._kept = list[object]()
        self._memory = list[Tensor]()
        self._pointers = array("Q")
        self._room = 0  # rows that the buffers have memory for
        self._handle: int | None = None

    def floats(self, width: int, *, outside: bool = False) -> Buffer:
        return self._add(Buffer(index=len(self.buffers), width=padded(width), outside=outside))

    def operand(self, width: int, format_: Format) -> Buffer:
        return self._add(Buffer(index=len(self.buffers), width=padded(width), format=format_))

    def _add(self, buffer: Buffer) -> Buffer:
        self.buffers.append(buffer)
        return buffer

    def add(
        self,
        kind: Kind,
        name: str,
        *,
        input: Buffer,
        output: Buffer | None = None,
        operand: Buffer | None = None,
        width: int,
        matrix: Weight | None = None,
        heads: Heads | None = None,
        keep: Sequence[object] = (),
        **fields: Any,
    ) -> int:
        operation = Operation(
            kind=kind,
            input=input.index,
            output=NONE if output is None else output.index,
            operand=NONE if operand is None else operand.index,
            width=width,
            format=NONE if operand is None else operand.format,
            **fields,
        )
        if matrix is not None:
            operation.matrix = ctypes.pointer(matrix)
        if heads is not None:
            operation.heads = ctypes.pointer(heads)
        self._kept += [matrix, heads, *keep]
        self.operations.append(operation)
        self.names.append(name)
        self.matrices.append(matrix)
        return len(self.operations) - 1

    def rows(self, buffer: Buffer, count: int) -> Tensor:
        """The first rows of a buffer of floats: [count, padded width], no copy."""
        self._make_room(count)
        return self._memory[buffer.index].view(torch.float32).view(-1, buffer.width)[:count]

    def run(
        self,
        run: Run,
        first: int = 0,
        last: int | None = None,
        *,
        results: Mapping[Buffer, Tensor] = MappingProxyType({}),
    ) -> None:
        """Operations [first, last), or all from `first` on, of a run whose inputs are in its buffers.

        `results` says where a buffer is to be written, if not in its own memory: [T, width] float32.
        """
        self._make_room(run.tokens)
        pointers = self._pointers
        if results:
            pointers = pointers[:]
            for buffer, place in results.items():
                pointers[buffer.index] = place.data_ptr()
        run.first, run.last = first, len(self.operations) if last is None else last
        run.buffers, _ = pointers.buffer_info()
        if self.library.profile is None:
            self.library.run(self._handle, ctypes.byref(run))
        else:
            with self.library.profile.observe(self, run):
                self.library.run(self._handle, ctypes.byref(run))

    def _make_room(self, rows: int) -> None:
        if self._handle is None:
            listed = (Operation * len(self.operations))(*self.operations)
            self._handle = self.library.program(listed, len(self.operations))
            weakref.finalize(self, self.library.free, self._handle).atexit = False
        if rows <= self._room:
            return
        self.library.quiesce()
        room = max(FEWEST_ROWS, 1 << (rows - 1).bit_length())
        self._memory = [
            torch.zeros(room * self._row_bytes(buffer), dtype=torch.uint8) for buffer in self.buffers
        ]
        self._room = room  # not before: there may be no memory for so many
        self._pointers = array("Q", [memory.data_ptr() for memory in self._memory])

    def _row_bytes(self, buffer: Buffer) -> int:
        if buffer.outside:
            return 0
        if buffer.format is None:
            return buffer.width * 4
        return int(self.library.operand_bytes(buffer.format, buffer.width))

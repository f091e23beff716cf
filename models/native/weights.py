"""Matrices in the layout of the kernels."""

from __future__ import annotations

import ctypes
from copy import copy
from functools import cached_property

import torch
from torch import Tensor

from models.native.library import Library
from models.native.memory import products
from models.native.program import Buffer, Program, fits, padded
from models.native.structures import PANEL, Format, Kind, Run, Weight
from models.weights.blocks import Blocks

_BITS = {  # of a weight, with its share of scales
    Format.FLOAT32: 32,
    Format.BFLOAT16: 16,
    Format.Q8_0: 8.5,
    Format.Q4_0: 4.5,
    Format.Q4_1: 5,
    Format.Q4_K: 4.625,
}


class Matrix:
    """A [outputs, inputs] matrix and a bias, packed; by itself a layer: rows [T, inputs] -> [T, outputs].

    `gated`: its halves lie side by side, as `function(first) * second` takes them.
    """

    def __init__(
        self,
        library: Library,
        rows: Tensor | Blocks,
        bias: Tensor | None,
        format_: Format,
        *,
        operand: Format | None = None,
        gated: bool = False,
    ) -> None:
        """rows [outputs, inputs] of float32 or bfloat16, which are rounded to `format_`, or in blocks of that
        format; bias [outputs].

        `operand`: the format of what is multiplied with it; by default that of the matrix, if it is none of
        blocks. With blocks and INT8, sums over a block are exact; with others, products are those with the
        numbers that the blocks stand for, rounded to `operand`, bit for bit.
        """
        self.outputs, self.inputs = rows.shape
        self.gated = gated
        self._library = library
        self._operand = format_ if operand is None else operand
        panels = 2 * padded(self.outputs // 2) if gated else padded(self.outputs, PANEL)
        self._data = library.memory.allocate(int(panels * padded(self.inputs) * _BITS[format_]) // 8)
        self._bias = None if bias is None else _lay_out(bias.detach().float(), panels, gated=gated)
        self.weight = Weight(
            format=format_,
            operand=self._operand,
            inputs=padded(self.inputs),
            outputs=panels,
            gated=gated,
            data=self._data.data_ptr(),
            bias=None if self._bias is None else self._bias.data_ptr(),
        )
        self.weight.nbytes = self.nbytes
        self._pack(rows)

    @property
    def format(self) -> Format:
        return Format(self.weight.format)

    @property
    def nbytes(self) -> int:
        """That a product reads."""
        return len(self._data)

    def with_bias(self, bias: Tensor) -> Matrix:
        """The same numbers, which are not copied, with a bias [outputs] of its own."""
        twin = copy(self)
        twin.__dict__.pop("_alone", None)  # that program knows nothing of the bias
        twin._bias = _lay_out(bias.detach().float(), self.weight.outputs, gated=self.gated)
        twin.weight = Weight.from_buffer_copy(self.weight)
        twin.weight.bias, twin.weight.nbytes = twin._bias.data_ptr(), self.nbytes
        return twin

    def rows(self, indices: Tensor) -> Tensor:
        """Some rows of the matrix: indices [R] int64 -> [R, inputs] float32. IndexError where there is none.

        Of a gated matrix rows are numbered as they lie in its panels.
        """
        self._check(indices)
        chosen = indices.long().contiguous()
        found = torch.empty(len(chosen), self.weight.inputs)
        self._library.unpack(ctypes.byref(self.weight), chosen.data_ptr(), len(chosen), found.data_ptr())
        return found if self.weight.inputs == self.inputs else found[:, : self.inputs]

    def _check(self, indices: Tensor) -> None:
        """The kernels would read whatever lies there."""
        if not len(indices):
            return
        rows = self.weight.outputs if self.gated else self.outputs
        numbers = indices.numpy()
        least, most = int(numbers.min()), int(numbers.max())
        if least < 0 or most >= rows:
            raise IndexError(f"there is no row {least if least < 0 else most}: there are {rows}")

    def __call__(self, rows: Tensor) -> Tensor:
        """rows [T, inputs] of any dtype -> [T, outputs] float32."""
        if not len(rows):
            return torch.empty(0, self.outputs)
        program, read, written = self._alone
        made = products(len(rows), written.width)
        places = {written: made}
        if fits(rows, read):
            places[read] = rows
        else:
            program.rows(read, len(rows))[:, : self.inputs] = rows
        program.run(Run(tokens=len(rows)), results=places)
        if not self.gated:
            return made if written.width == self.outputs else made[:, : self.outputs]
        return made.view(len(rows), 2, -1)[..., : self.outputs // 2].flatten(1)

    @cached_property
    def _alone(self) -> tuple[Program, Buffer, Buffer]:
        """A program of one product, with its input and output."""
        program = Program(self._library)
        width = 2 * padded(self.outputs // 2) if self.gated else self.outputs  # halves lie apart
        read, written = program.floats(self.inputs), program.floats(width, outside=True)
        operand = program.operand(self.inputs, self._operand)
        program.add(Kind.NORMALISE, "operand", input=read, operand=operand, width=self.inputs, private=True)
        program.add(
            Kind.LINEAR,
            "product",
            input=operand,
            output=written,
            width=width,
            matrix=self.weight,
            private=True,
        )
        return program, read, written

    def _pack(self, rows: Tensor | Blocks) -> None:
        if isinstance(rows, Blocks):
            numbers, given = rows.raw.contiguous(), Format[rows.kind.name]
        else:
            numbers = rows.detach().contiguous()
            given = Format.FLOAT32 if rows.dtype is torch.float32 else Format.BFLOAT16
        self._library.pack(
            ctypes.byref(self.weight),
            numbers.data_ptr(),
            given,
            self.outputs,
            self.inputs,
            self.weight.data,
        )


def _lay_out(bias: Tensor, panels: int, *, gated: bool) -> Tensor:
    """In the order of the panels' outputs."""
    if not gated:
        return torch.nn.functional.pad(bias, (0, panels - len(bias)))
    halves = torch.nn.functional.pad(bias.view(2, -1), (0, (panels - len(bias)) // 2))
    return halves.view(2, -1, PANEL // 2).transpose(0, 1).flatten().contiguous()

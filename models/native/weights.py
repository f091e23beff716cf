"""Matrices in the layout of the kernels."""

from __future__ import annotations

import ctypes
from functools import cached_property

import torch
from torch import Tensor

from models.native.library import Library
from models.native.program import Buffer, Program, padded
from models.native.structures import PANEL, Format, Kind, Run, Weight

_BYTES = {Format.FLOAT32: 4, Format.BFLOAT16: 2, Format.INT8: 1}


class Matrix:
    """A [outputs, inputs] matrix and a bias, packed; by itself a layer: rows [T, inputs] -> [T, outputs].

    `gated`: its halves lie side by side, as `function(first) * second` takes them.
    """

    def __init__(
        self, library: Library, rows: Tensor, bias: Tensor | None, format_: Format, *, gated: bool = False
    ) -> None:
        """rows [outputs, inputs] float32 or bfloat16, bias [outputs]."""
        self.outputs, self.inputs = rows.shape
        self.gated = gated
        self._library = library
        panels = 2 * padded(self.outputs // 2) if gated else padded(self.outputs, PANEL)
        self._data = library.memory.allocate(panels * padded(self.inputs) * _BYTES[format_])
        self._scales = torch.zeros(panels) if format_ is Format.INT8 else None
        self._bias = None if bias is None else _lay_out(bias.detach().float(), panels, gated=gated)
        self.weight = Weight(
            format=format_,
            inputs=padded(self.inputs),
            outputs=panels,
            gated=gated,
            data=self._data.data_ptr(),
            scales=None if self._scales is None else self._scales.data_ptr(),
            bias=None if self._bias is None else self._bias.data_ptr(),
        )
        self.weight.nbytes = self.nbytes
        self._pack(rows.detach().contiguous())

    @property
    def format(self) -> Format:
        return Format(self.weight.format)

    @property
    def nbytes(self) -> int:
        """That a product reads."""
        return len(self._data) + (0 if self._scales is None else self._scales.nbytes)

    def rows(self, indices: Tensor) -> Tensor:
        """Some rows of the matrix: indices [R] int64 -> [R, inputs] float32."""
        found = torch.empty(len(indices), self.weight.inputs)
        self._library.unpack(
            ctypes.byref(self.weight), indices.contiguous().data_ptr(), len(indices), found.data_ptr()
        )
        return found[:, : self.inputs]

    def __call__(self, rows: Tensor) -> Tensor:
        """rows [T, inputs] of any dtype -> [T, outputs] float32."""
        if not len(rows):
            return torch.empty(0, self.outputs)
        program, read, written = self._alone
        program.rows(read, len(rows))[:, : self.inputs] = rows
        products = torch.empty(len(rows), written.width)
        program.run(Run(tokens=len(rows)), results={written: products})
        return products[:, : self.outputs]

    @cached_property
    def _alone(self) -> tuple[Program, Buffer, Buffer]:
        """A program of one product, with its input and output."""
        program = Program(self._library)
        read, written = program.floats(self.inputs), program.floats(self.outputs)
        operand = program.operand(self.inputs, self.format)
        program.add(Kind.NORMALISE, "operand", input=read, operand=operand, width=self.inputs, private=True)
        program.add(
            Kind.LINEAR,
            "product",
            input=operand,
            output=written,
            width=self.outputs,
            matrix=self.weight,
            private=True,
        )
        return program, read, written

    def _pack(self, rows: Tensor) -> None:
        given = Format.FLOAT32 if rows.dtype is torch.float32 else Format.BFLOAT16
        self._library.pack(
            ctypes.byref(self.weight),
            rows.data_ptr(),
            given,
            self.outputs,
            self.inputs,
            self.weight.data,
            self.weight.scales,
        )


def _lay_out(bias: Tensor, panels: int, *, gated: bool) -> Tensor:
    """In the order of the panels' outputs."""
    if not gated:
        return torch.nn.functional.pad(bias, (0, panels - len(bias)))
    halves = torch.nn.functional.pad(bias.view(2, -1), (0, (panels - len(bias)) // 2))
    return halves.view(2, -1, PANEL // 2).transpose(0, 1).flatten().contiguous()

"""From the parts of a model to the operations of a program.

A lowering goes through a model once, when it is loaded, and writes down what its `forward` would do to the
stream. How attention and MLP are joined to the stream: see `blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.config import Activation
from models.layers.linear import Linear
from models.layers.mlp import GatedMlp, PlainMlp
from models.native.errors import Unsupported
from models.native.norms import Normed
from models.native.program import Buffer, Program, padded
from models.native.structures import Format, Function, Heads, Kind, NormKind, Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where an adapter changes what a linear layer says: behind the operation `index`."""

    index: int
    layer: Linear
    input: Buffer
    output: Buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a product reads: an operand and, where adapters read it too, the same as floats.

    `private`: each thread may have made its own.
    """

    operand: Buffer
    floats: Buffer | None = None
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The attention of one layer: `projection` makes heads of rows, those of `parts`.

    `layer`: whose cache; `view`: which of the run's; `rotation`: which of the run's, where heads are turned.
    """

    projection: Linear
    out: Linear | None
    heads: Heads
    parts: Parts = Parts.ALL
    layer: int = 0
    view: int = 0
    rotation: int = 0
    kept: Sequence[object] = ()  # what must live as long as the heads

    @property
    def width(self) -> int:
        """Elements of a row that `projection` makes."""
        heads = self.heads
        queries = heads.heads if self.parts & Parts.QUERIES else 0
        keys = heads.kv_heads if self.parts & Parts.KEYS else 0
        return (queries + 2 * keys) * heads.head_dim

    @property
    def straight(self) -> bool:
        """Whether heads are what the projection says, element by element: neither clipped, normed nor turned,
        and as wide in the cache."""
        heads = self.heads
        plain = heads.clip == math.inf and heads.norm == NormKind.NONE and not heads.rotated
        return plain and heads.head_dim == heads.padded_dim

    @property
    def place(self) -> dict[str, Any]:
        """What its operations have in common."""
        return {
            "heads": self.heads,
            "layer": self.layer,
            "view": self.view,
            "rotation": self.rotation,
            "keep": self.kept,
        }


class Lowering:
    """Writes what parts of blocks do to `stream`, floats of `hidden` elements.

    `format_` is that of operands, `cache` that of queries, keys and values. With `adapters`, what an adapter
    reads and changes is kept as floats, and `sites` says where that is; the results have the same bits.
    """

    def __init__(
        self, program: Program, hidden: int, *, format_: Format, cache: Format, adapters: bool
    ) -> None:
        self.program = program
        self.stream = program.floats(hidden)
        self.cache = cache
        self.sites = list[Site]()
        self._hidden = hidden
        self._format = format_
        self._adapters = adapters
        self._shared = dict[tuple[str, int, Format | None], Buffer]()
        self._renewed: Rows | None = None  # of the stream as it is

    def read(self, norm: nn.Module | None, *, shared: bool = False, name: str = "rows") -> Rows:
        """The stream, normalised, for a product. `shared`: it is read again after other rows were made."""
        floats = self.floats(f"{name} for adapters", self._hidden) if self._adapters else None
        private = not shared and floats is None
        operand = self.operand(name, self._hidden)
        self._normalise(norm, self.stream, self._hidden, output=floats, operand=operand, private=private)
        return Rows(operand=operand, floats=floats, private=private)

    def renew(self, norm: nn.Module) -> Rows:
        """The stream becomes its normalised self; the same for a product."""
        operand = self.operand("rows", self._hidden)
        self._normalise(norm, self.stream, self._hidden, output=self.stream, operand=operand)
        self._renewed = Rows(operand=operand, floats=self.stream)
        return self._renewed

    def reread(self) -> Rows:
        """The stream as the block before has renewed it, or as it came in, for a product."""
        return self.read(None) if self._renewed is None else self._renewed

    @property
    def part(self) -> Buffer:
        """For what does not go straight into the stream."""
        return self.floats("part", self._hidden)

    def add_normed(self, norm: nn.Module, part: Buffer) -> None:
        """What was written to `part`, normalised, is added to the stream."""
        self._normalise(norm, part, self._hidden, output=self.stream, add=True)

    def mlp(self, mlp: nn.Module, rows: Rows, output: Buffer, *, add: bool) -> None:
        match mlp:
            case GatedMlp():
                between, gated = mlp.gate_up, True
            case PlainMlp():
                between, gated = mlp.up, False
            case _:
                raise Unsupported(f"the MLP {type(mlp).__name__}")
        function = _function(mlp.activation)
        opened = self._activated(between, rows, mlp.down.in_features, function, gated=gated)
        self.linear(mlp.down, opened, output, add=add, name="down")

    def attention(self, attention: Attention, rows: Rows, output: Buffer, *, add: bool) -> None:
        """All of it: projections, heads, the cache, and what is found there."""
        queries = self.project(attention, rows)
        assert queries is not None
        assert attention.out is not None
        self.linear(attention.out, self.attend(attention, queries), output, add=add, name="out")

    def project(self, attention: Attention, rows: Rows, *, name: str = "qkv") -> Buffer | None:
        """Queries, keys and values are made of rows. Queries are returned, keys and values go into the cache:
        whatever there is, and straight from the product where nothing is done to them in between."""
        if attention.straight and not self._adapters:
            return self._project_straight(attention, rows, name)
        projected = self.floats("projected", attention.width)
        self.linear(attention.projection, rows, projected, name=name)
        return self.heads(attention, projected)

    def heads(self, attention: Attention, projected: Buffer) -> Buffer | None:
        """What `project` does behind the product, as an operation of its own."""
        queries = self._queries(attention)
        self.program.add(
            Kind.HEADS,
            "heads",
            input=projected,
            operand=queries,
            width=attention.width,
            parts=attention.parts,
            **attention.place,
        )
        return queries

    def attend(self, attention: Attention, queries: Buffer) -> Rows:
        heads = attention.heads
        width = heads.heads * heads.head_dim
        floats, operand = self._results("attended", width, in_parts=True)
        self.program.add(
            Kind.ATTEND,
            "attend",
            input=queries,
            output=floats,
            operand=operand,
            width=width,
            **attention.place,
        )
        return self._ready("attended", width, floats, operand)

    def finish(self, norm: nn.Module) -> None:
        """The stream, normalised, is the result."""
        self._normalise(norm, self.stream, self._hidden, output=self.stream)

    def linear(
        self, layer: Linear, rows: Rows, output: Buffer, *, add: bool = False, name: str = "linear"
    ) -> None:
        """``output = rows W^T + b``, or added to it."""
        assert layer.matrix is not None
        index = self.program.add(
            Kind.LINEAR,
            name,
            input=rows.operand,
            output=output,
            width=output.width,
            matrix=layer.matrix.weight,
            add=add,
            private=rows.private,
            keep=(layer.matrix,),
        )
        self._mark(index, layer, rows, output)

    # ---- buffers

    def floats(self, name: str, width: int) -> Buffer:
        """One buffer for all layers."""
        return self._named(name, width, None)

    def operand(self, name: str, width: int, format_: Format | None = None) -> Buffer:
        """One buffer for all layers, in the format of operands unless told."""
        return self._named(name, width, self._format if format_ is None else format_)

    def _named(self, name: str, width: int, format_: Format | None) -> Buffer:
        key = (name, width, format_)
        if key not in self._shared:
            make = self.program.floats(width) if format_ is None else self.program.operand(width, format_)
            self._shared[key] = make
        return self._shared[key]

    def _queries(self, attention: Attention) -> Buffer | None:
        heads = attention.heads
        if not attention.parts & Parts.QUERIES:
            return None
        return self.operand("queries", heads.heads * heads.padded_dim, self.cache)

    # ---- operations

    def _project_straight(self, attention: Attention, rows: Rows, name: str) -> Buffer | None:
        queries, matrix = self._queries(attention), attention.projection.matrix
        assert matrix is not None
        place = attention.place | {"keep": (*attention.kept, matrix)}
        self.program.add(
            Kind.LINEAR,
            name,
            input=rows.operand,
            operand=queries,
            width=attention.width,
            matrix=matrix.weight,
            private=rows.private,
            parts=attention.parts,
            **place,
        )
        return queries

    def _activated(self, layer: Linear, rows: Rows, width: int, function: Function, *, gated: bool) -> Rows:
        """``function(rows W^T + b)``; gated, of the first half, times the second."""
        if self._adapters:
            return self._activated_apart(layer, rows, width, function, gated=gated)
        assert layer.matrix is not None
        floats, operand = self._results("opened", width, in_parts=gated)
        self.program.add(
            Kind.LINEAR,
            "gate_up" if gated else "up",
            input=rows.operand,
            output=floats,
            operand=operand,
            width=width,
            matrix=layer.matrix.weight,
            function=function,
            gated=gated,
            private=rows.private,
            keep=(layer.matrix,),
        )
        return self._ready("opened", width, floats, operand)

    def _activated_apart(
        self, layer: Linear, rows: Rows, width: int, function: Function, *, gated: bool
    ) -> Rows:
        """The same in two operations, between which adapters have their say."""
        closed = self.floats("closed", 2 * padded(width) if gated else width)
        self.linear(layer, rows, closed, name="gate_up" if gated else "up")
        floats, operand = self.floats("opened", width), self.operand("opened", width)
        self.program.add(
            Kind.ACTIVATE,
            "activate",
            input=closed,
            output=floats,
            operand=operand,
            width=width,
            function=function,
            gated=gated,
        )
        return Rows(operand=operand, floats=floats)

    def _results(self, name: str, width: int, *, in_parts: bool) -> tuple[Buffer | None, Buffer | None]:
        """What an operation writes whose result goes into a product: floats, an operand, or both.

        Eight-bit operands are made by an operation of their own where results come `in_parts`: fewer at a
        time than share a scale.
        """
        apart = in_parts and self._format is Format.INT8
        floats = self.floats(name, width) if apart or self._adapters else None
        return floats, None if apart else self.operand(name, width)

    def _ready(self, name: str, width: int, floats: Buffer | None, operand: Buffer | None) -> Rows:
        if operand is not None:
            return Rows(operand=operand, floats=floats)
        assert floats is not None
        operand = self.operand(name, width)
        self._normalise(None, floats, width, operand=operand, private=True)
        return Rows(operand=operand, floats=floats, private=True)

    def _normalise(
        self,
        norm: nn.Module | None,
        source: Buffer,
        width: int,
        *,
        output: Buffer | None = None,
        operand: Buffer | None = None,
        add: bool = False,
        private: bool = False,
    ) -> None:
        normed = Normed.of(norm, width)
        self.program.add(
            Kind.NORMALISE,
            "norm",
            input=source,
            output=output,
            operand=operand,
            width=width,
            norm=normed.kind,
            eps=normed.eps,
            weight=_address(normed.weight),
            bias=_address(normed.bias),
            add=add,
            private=private,
            keep=(normed,),
        )

    def _mark(self, index: int, layer: Linear, rows: Rows, output: Buffer) -> None:
        if self._adapters:
            assert rows.floats is not None
            self.sites.append(Site(index=index, layer=layer, input=rows.floats, output=output))


def _function(activation: Activation) -> Function:
    """Its name is the same on both sides. Raises Unsupported."""
    if activation.name not in Function.__members__:
        raise Unsupported(f"the activation {activation.value}")
    return Function[activation.name]


def _address(weight: Tensor | None) -> int | None:
    return None if weight is None else weight.data_ptr()

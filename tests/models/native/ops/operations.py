"""Single operations, run through small programs; what they should say is computed in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.native.library import Library
from models.native.program import Buffer, Program, Slices, padded
from models.native.structures import BLOCK_TOKENS, GROUP, Format, Function, Heads, Kind, NormKind, Parts, Run
from models.native.weights import Matrix

DTYPES = {Format.FLOAT32: torch.float32, Format.BFLOAT16: torch.bfloat16}
LIMITS = {Format.FLOAT32: 1e-5, Format.BFLOAT16: 1e-2}
ORACLES: dict[Function, Callable[[Tensor], Tensor]] = {
    Function.IDENTITY: lambda x: x,
    Function.GELU: functional.gelu,
    Function.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
    Function.GELU_SIGMOID: lambda x: x * torch.sigmoid(1.702 * x),
    Function.SILU: functional.silu,
    Function.RELU: functional.relu,
    Function.RELU_SQUARED: lambda x: functional.relu(x).square(),
    Function.TANH: torch.tanh,
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor, limit: float) -> None:
    """Within `limit` of the largest number that there is; where terms cancelled each other, of a tenth."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=0.1)
    assert error <= limit


def rounded_to_bytes(rows: Tensor) -> Tensor:
    """Rows [T, width] of float32 as operands of eight bits hold them, a scale for 32: float64."""
    groups = functional.pad(rows, (0, -rows.shape[1] % GROUP)).view(len(rows), -1, GROUP)
    peaks = groups.abs().amax(-1, keepdim=True)
    steps = (groups * (127 / peaks.where(peaks > 0, 1))).round()
    rounded: Tensor = (steps.double() * (peaks / 127)).flatten(1)
    return rounded[:, : rows.shape[1]]


def address(numbers: Tensor | None) -> int | None:
    return None if numbers is None else numbers.data_ptr()


def read_operand(program: Program, buffer: Buffer, rows: int) -> Tensor:
    """What a product would see: [rows, padded width]."""
    memory = program._memory[buffer.index]
    if buffer.format is Format.INT8:
        return _read_bytes(memory.view(-1, buffer.width + buffer.width // GROUP * 12)[:rows], buffer.width)
    assert buffer.format is not None
    return memory.view(DTYPES[buffer.format]).view(-1, buffer.width)[:rows].float()


def _read_bytes(memory: Tensor, width: int) -> Tensor:
    groups = width // GROUP
    steps = memory[:, :width].view(torch.int8).reshape(-1, groups, GROUP)
    numbers = memory[:, width:].contiguous().view(torch.float32).view(-1, 3, groups)
    scales, centring, totals = numbers.unbind(1)
    sums = steps.int().sum(-1, dtype=torch.int32)
    assert torch.equal(centring.contiguous().view(torch.int32), -128 * sums)
    assert torch.equal(totals, scales * sums)
    rounded: Tensor = (steps * scales[..., None]).flatten(1)
    return rounded


# ---- rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    kind: NormKind = NormKind.NONE
    eps: float = 1e-5
    weight: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        if self.kind is NormKind.NONE:
            return rows
        if self.kind is NormKind.LAYER:
            rows = rows - rows.mean(-1, keepdim=True)
        rows = rows / (rows.square().mean(-1, keepdim=True) + self.eps).sqrt()
        rows = rows if self.weight is None else rows * self.weight
        return rows if self.bias is None else rows + self.bias


def normalise(
    library: Library,
    rows: Tensor,
    norm: Norm,
    *,
    to: Tensor | None = None,
    in_place: bool = False,
    operand: Format | None = None,
) -> tuple[Tensor, Tensor | None]:
    """-> what is in the output afterwards, whose rows were `to` before if it is added to, and the operand."""
    tokens, width = rows.shape
    program = Program(library)
    source = program.floats(width)
    output = source if in_place else program.floats(width)
    made = None if operand is None else program.operand(width, operand)
    program.add(
        Kind.NORMALISE,
        "norm",
        input=source,
        output=output,
        operand=made,
        width=width,
        norm=norm.kind,
        eps=norm.eps,
        weight=address(norm.weight),
        bias=address(norm.bias),
        add=to is not None,
    )
    program.rows(source, tokens)[:, :width] = rows
    if to is not None:
        program.rows(output, tokens)[:, :width] = to
    program.run(Run(tokens=tokens))
    written = program.rows(output, tokens)
    assert not written[:, width:].any()  # what pads a row stays zero
    result = written[:, :width].clone()
    return result, None if made is None else read_operand(program, made, tokens)[:, :width]


def activate(library: Library, rows: Tensor, function: Function, *, gated: bool, operand: Format) -> Tensor:
    """rows [T, width], or [T, 2, width] gated -> what a product would see [T, width]."""
    width = rows.shape[-1]
    program = Program(library)
    source = program.floats(2 * padded(width) if gated else width)
    output, made = program.floats(width), program.operand(width, operand)
    program.add(
        Kind.ACTIVATE,
        "activate",
        input=source,
        output=output,
        operand=made,
        width=width,
        function=function,
        gated=gated,
    )
    halves = program.rows(source, len(rows)).view(len(rows), -1, padded(width))
    halves[:, :, :width] = rows.view(len(rows), -1, width)
    program.run(Run(tokens=len(rows)))
    return read_operand(program, made, len(rows))[:, :width]


# ---- products


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product and what becomes of it. `apart`: halves of a gated matrix are left side by side."""

    library: Library
    weight: Tensor
    bias: Tensor | None = None
    format: Format = Format.FLOAT32
    function: Function = Function.IDENTITY
    gated: bool = False
    apart: bool = False
    private: bool = True

    def __call__(self, rows: Tensor, *, to: Tensor | None = None, operand: Format | None = None) -> Tensor:
        """rows [T, inputs] -> [T, width], added to `to`, or as the operand of another product."""
        program = Program(self.library)
        outputs, inputs = self.weight.shape
        width = outputs // 2 if self.gated and not self.apart else outputs
        kept = Format.Q8_0 if self.format is Format.INT8 else self.format
        matrix = Matrix(self.library, self.weight, self.bias, kept, operand=self.format, gated=self.gated)
        source, read = program.floats(inputs), program.operand(inputs, self.format)
        written = program.floats(2 * padded(outputs // 2) if self.apart else width)
        made = None if operand is None else program.operand(width, operand)
        program.add(Kind.NORMALISE, "rows", input=source, operand=read, width=inputs, private=self.private)
        program.add(
            Kind.LINEAR,
            "product",
            input=read,
            output=written if operand is None else None,
            operand=made,
            width=written.width if self.apart else width,
            matrix=matrix.weight,
            function=self.function,
            gated=self.gated and not self.apart,
            add=to is not None,
            private=self.private,
            keep=(matrix,),
        )
        program.rows(source, len(rows))[:, :inputs] = rows
        if to is not None:
            program.rows(written, len(rows))[:, :width] = to
        program.run(Run(tokens=len(rows)))
        if made is not None:
            return read_operand(program, made, len(rows))[:, :width]
        found = program.rows(written, len(rows)).clone()
        if not self.apart:
            return found[:, :width]
        return found.view(len(rows), 2, -1)[:, :, : outputs // 2].flatten(1)

    def oracle(self, rows: Tensor, to: Tensor | None = None) -> Tensor:
        seen = rows.to(DTYPES[self.format])  # by the product
        products = seen.double() @ self.weight.double().T
        if self.bias is not None:
            products = products + self.bias
        if self.gated and not self.apart:
            gate, opened = products.chunk(2, dim=1)
            products = ORACLES[self.function](gate) * opened
        else:
            products = ORACLES[self.function](products)
        return products if to is None else products + to


# ---- attention


@dataclass(slots=True, kw_only=True)
class Texts:
    """Whole texts that attend to themselves, computed in any chunks.

    `projected` [T, (heads + 2 kv_heads) * head_dim] of each text; blocks of the cache are given out shuffled.
    `straight`: heads come out of a product, with the identity, instead of being made of its rows.
    """

    library: Library
    heads: Heads
    projected: Sequence[Tensor]
    cosines: Tensor | None = None  # [longest text, rotated]
    sines: Tensor | None = None
    kept: Sequence[object] = ()
    seed: int = 0
    straight: bool = False
    _tables: list[list[int]] = field(default_factory=list)

    def __call__(self, schedule: Sequence[Sequence[int]]) -> list[Tensor]:
        """`schedule`: how many tokens of each text every step computes. -> [T, heads, head_dim] of each."""
        needed = [-(-len(text) // BLOCK_TOKENS) for text in self.projected]
        shuffled = np.random.default_rng(self.seed).permutation(sum(needed) + 3).tolist()
        self._tables = [[shuffled.pop() for _ in range(count)] for count in needed]
        program, source, attended = self._program()
        caches = self._caches(sum(needed) + 3)
        done = [0] * len(self.projected)
        results: list[list[Tensor]] = [[] for _ in self.projected]
        for counts in schedule:
            chosen = [text for text, count in enumerate(counts) if count]
            self._step(program, source, caches, [(text, done[text], counts[text]) for text in chosen])
            rows = program.rows(attended, sum(counts))[:, : self.heads.heads * self.heads.head_dim].clone()
            for text, part in zip(
                chosen, rows.split_with_sizes([counts[text] for text in chosen]), strict=True
            ):
                results[text].append(part)
                done[text] += counts[text]
        return [torch.cat(parts).view(-1, self.heads.heads, self.heads.head_dim) for parts in results]

    def _program(self) -> tuple[Program, Buffer, Buffer]:
        heads, width = self.heads, self.projected[0].shape[1]
        program = Program(self.library)
        source = program.floats(width)
        queries = program.operand(heads.heads * heads.padded_dim, Format(heads.format))
        attended = program.floats(heads.heads * heads.head_dim)
        place: dict[str, Any] = {"heads": heads, "keep": self.kept}
        if self.straight:
            self._add_product(program, source, queries, place)
        else:
            program.add(
                Kind.HEADS, "heads", input=source, operand=queries, width=width, parts=Parts.ALL, **place
            )
        program.add(
            Kind.ATTEND, "attend", input=queries, output=attended, width=heads.heads * heads.head_dim, **place
        )
        return program, source, attended

    def _add_product(self, program: Program, source: Buffer, queries: Buffer, place: dict[str, Any]) -> None:
        width = self.projected[0].shape[1]
        matrix = Matrix(self.library, torch.eye(width), torch.zeros(width), Format.FLOAT32)
        rows = program.operand(width, Format.FLOAT32)
        program.add(Kind.NORMALISE, "rows", input=source, operand=rows, width=width, private=True)
        program.add(
            Kind.LINEAR,
            "product",
            input=rows,
            operand=queries,
            width=width,
            matrix=matrix.weight,
            private=True,
            parts=Parts.ALL,
            heads=place["heads"],
            keep=(*self.kept, matrix),
        )

    def _caches(self, blocks: int) -> tuple[Tensor, Tensor]:
        """Of values that nobody wrote nobody may read: they are not numbers."""
        shape = (blocks, self.heads.kv_heads, BLOCK_TOKENS, self.heads.padded_dim)
        keys = torch.zeros(shape, dtype=DTYPES[Format(self.heads.format)])
        return keys, torch.full_like(keys, torch.nan)

    def _step(
        self,
        program: Program,
        source: Buffer,
        caches: tuple[Tensor, Tensor],
        chunks: Sequence[tuple[int, int, int]],
    ) -> None:
        tokens = sum(count for _, _, count in chunks)
        rows = [self.projected[text][start : start + count] for text, start, count in chunks]
        program.rows(source, tokens)[:, : self.projected[0].shape[1]] = torch.cat(rows)
        run = Run(tokens=tokens)
        starts, counts = [chunk[1] for chunk in chunks], [chunk[2] for chunk in chunks]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        tables = [self._tables[text] for text, _, _ in chunks]
        slices = Slices.of(tables, starts, counts, ends, BLOCK_TOKENS)
        slices.fill(run.views[0])
        kept = [*self._turn(run, chunks), *(_addresses(cache) for cache in caches)]
        run.keys, run.values = kept[-2].ctypes.data, kept[-1].ctypes.data
        program.run(run)
        del kept, slices  # not before: the run holds their addresses

    def _turn(self, run: Run, chunks: Sequence[tuple[int, int, int]]) -> Iterator[Any]:
        if self.cosines is None or self.sines is None:
            return
        for name, angles in (("cosines", self.cosines), ("sines", self.sines)):
            rows = torch.cat([angles[start : start + count] for _, start, count in chunks]).contiguous()
            getattr(run, name)[0] = rows.data_ptr()
            yield rows


def _addresses(cache: Tensor) -> NDArray[np.uint64]:
    return np.array([cache.data_ptr()], np.uint64)

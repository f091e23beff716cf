"""``y = x W^T + b``, and a layout of W that the CPU multiplies faster.

On a CPU a row's result has the same bits whatever rows are beside it, in float32 and bfloat16, packed or not.
Kernels sum in another order for a few left-over rows only, so there are none: see `never_alone`, `in_fours`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from models.layers.lora import Mixing
    from models.native.weights import Matrix

# The layout does not depend on how many rows this promises, so one fits every batch.
_ROWS_HINT = 32


class Linear(nn.Linear):
    """A plain `nn.Linear` until `prepack` is called, or it is given a `matrix`: [T, in] -> [T, out].

    `changes` are what adapters add to it, by their names: rows [n, in] -> [n, out].
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._packed: Tensor | None = None
        self.matrix: Matrix | None = None  # weight and bias for the kernels
        self.changes: dict[str, Callable[[Tensor], Tensor]] = {}

    def forward(self, input: Tensor, mixing: Mixing | None = None) -> Tensor:
        """`mixing` says which rows run with which adapter; the others keep their bits."""
        output = self._multiply(input)
        if mixing is not None:
            mixing.add(self.changes, input, output)
        return output

    @property
    def packed(self) -> bool:
        return self._packed is not None or self.matrix is not None

    def prepack(self) -> None:
        """Replace the weight by its packed form, for inference on a CPU; not undone.

        The plain weight is let go, so that memory does not double; `weight` is empty afterwards.
        """
        self._packed = _pack(self.weight.detach())
        self._let_go()

    def replace(self, matrix: Matrix) -> None:
        """Replace weight and bias by their form for the kernels, in the same way. Results are float32."""
        self.matrix = matrix
        self._let_go()

    def _let_go(self) -> None:
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def _multiply(self, rows: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix(rows)
        if self._packed is None:
            return super().forward(in_fours(rows))[: len(rows)]
        pair = never_alone(rows)
        return torch.ops.mkldnn._linear_pointwise(pair, self._packed, self.bias, "none", [], "")[: len(rows)]


def prepack(module: nn.Module) -> bool:
    """Prepack every `Linear` within, where this build of torch can for their dtype. True where it did.

    A table shared with an embedding is not packed: its rows are looked up too, and a packed copy would cost
    its size again (57 MB of SmolLM2's 270) for nothing measurable in bfloat16.
    """
    parts = [part for part in module.modules() if isinstance(part, Linear)]
    if not all(part.weight.device.type == "cpu" and _can_pack(part.weight.dtype) for part in parts):
        return False
    for part in parts:
        part.prepack()
    return True


def project(rows: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by a table that is also an embedding: rows [R, in], table [out, in] -> [R, out]."""
    return F.linear(in_fours(rows), table, bias)[: len(rows)]


def never_alone(rows: Tensor) -> Tensor:
    """A single row twice; more rows as they are: what a packed layer needs.

    For one row, oneDNN chooses a kernel that sums in another order. From two rows on, the order depends on
    the weight's shape alone.
    """
    return rows if len(rows) > 1 else rows.repeat(2, 1)


def in_fours(rows: Tensor) -> Tensor:
    """Zero rows added to the next multiple of four: what a plain layer needs.

    MKL's float32 kernels take rows by fours or more, and what is left over by others, which sum in another
    order. Threads share the rows, so that more may be left over than of the whole: but of whole fours, none.
    """
    missing = -len(rows) % 4
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


def _pack(weight: Tensor) -> Tensor:
    """The opaque oneDNN layout of a [out, in] weight."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """By trying: these operators are private to torch, and some processors have no kernel for a dtype."""
    if dtype not in (torch.bfloat16, torch.float32):
        return False  # float16: packed or not, too slow on any CPU to be worth a second path
    rows, weight = torch.ones(2, 32, dtype=dtype), torch.ones(64, 32, dtype=dtype)
    try:
        result = torch.ops.mkldnn._linear_pointwise(rows, _pack(weight), None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.equal(result, F.linear(rows, weight))

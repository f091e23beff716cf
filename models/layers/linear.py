"""``y = x W^T + b``, and a layout of W that the CPU multiplies faster and in one fixed order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The layout does not depend on the number of rows that this hints at, so one fits every batch; and because
# it is fixed, so is the order of every sum: a row's result does not depend on the rows beside it.
_ROWS_HINT = 32


class Linear(nn.Linear):
    """A plain `nn.Linear` until `prepack` is called: [..., in] -> [..., out]."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self._packed is None:
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")

    def prepack(self) -> None:
        """Replace the weight by its packed form: inference only, and not undone.

        The plain weight is let go, so that memory does not double; `weight` is empty afterwards.
        """
        self._packed = pack(self.weight.detach())
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)


def pack(weight: Tensor) -> Tensor:
    """The opaque oneDNN layout of a [out, in] weight."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)

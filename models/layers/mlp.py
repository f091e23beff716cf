"""The position-wise feed-forward network (Vaswani et al. 2017, §3.3), plain and gated."""

from __future__ import annotations

from torch import Tensor, nn

from models.config import Activation
from models.layers.activation import FUNCTIONS
from models.layers.linear import Linear
from models.layers.lora import Mixing


class PlainMlp(nn.Module):
    """``down(act(up(x)))``, row by row: [T, hidden] -> [T, hidden]."""

    def __init__(self, hidden_size: int, mlp_size: int, activation: Activation, *, bias: bool) -> None:
        super().__init__()
        self.up = Linear(hidden_size, mlp_size, bias=bias)
        self.down = Linear(mlp_size, hidden_size, bias=bias)
        self.activation = activation
        self._activate = FUNCTIONS[activation]

    def forward(self, hidden: Tensor, mixing: Mixing | None = None) -> Tensor:
        return self.down(self._activate(self.up(hidden, mixing)), mixing)


class GatedMlp(nn.Module):
    """``down(act(gate(x)) * up(x))`` (Shazeer 2020, arXiv 2002.05202): [T, hidden] -> [T, hidden].

    Gate and up are one linear layer, gate's rows first: one pass over the input, one kernel.
    """

    def __init__(self, hidden_size: int, mlp_size: int, activation: Activation, *, bias: bool) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * mlp_size, bias=bias)
        self.down = Linear(mlp_size, hidden_size, bias=bias)
        self.activation = activation
        self._activate = FUNCTIONS[activation]

    def forward(self, hidden: Tensor, mixing: Mixing | None = None) -> Tensor:
        gate, up = self.gate_up(hidden, mixing).chunk(2, dim=-1)
        return self.down(self._activate(gate) * up, mixing)

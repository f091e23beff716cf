"""Low-rank changes of linear layers, several in one batch (Hu et al. 2021, arXiv 2106.09685).

A layer with the change ``up @ down`` of rank r computes ``y = x W^T + (x down^T) up^T``, at a cost of
``r (in + out)`` for each row that runs with the adapter; other rows cost nothing and keep their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers.linear import Linear, prepack

Changes = Mapping[str, Callable[[Tensor], Tensor]]
"""By adapter: what is added to a layer's output, rows [n, in] -> [n, out]."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """Which rows of a step run with which adapter; the others run with none."""

    rows: tuple[tuple[str, Tensor], ...]  # an adapter's name, and the indices of its rows [n]

    @classmethod
    def of(cls, runs: Iterable[tuple[str | None, int]], device: torch.device) -> Mixing | None:
        """From runs of rows laid end to end, each with its adapter and length. None where there is none."""
        rows, start = dict[str, list[int]](), 0
        for name, count in runs:
            if name is not None:
                rows.setdefault(name, []).extend(range(start, start + count))
            start += count
        found = tuple((name, torch.tensor(some, device=device)) for name, some in rows.items() if some)
        return cls(found) if found else None

    def at(self, rows: Tensor) -> Mixing:
        """The same of some rows only, by their indices [R], which are numbered anew."""
        places = ((name, torch.isin(rows, theirs).nonzero().flatten()) for name, theirs in self.rows)
        return Mixing(tuple((name, some) for name, some in places if len(some)))

    def add(self, changes: Changes, input: Tensor, output: Tensor) -> None:
        """Add to a layer's `output` [T, out], in place, what the adapters of `input` [T, in] change.

        Each adapter's rows are multiplied by themselves, so that no row depends on another adapter's.
        """
        for name, rows in self.rows:
            change = changes.get(name)
            if change is not None:
                output.index_add_(0, rows, change(input.index_select(0, rows)).to(output.dtype))

    def touches(self, changes: Changes) -> bool:
        """Whether any of the rows runs with one of these."""
        return any(name in changes for name, _ in self.rows)


class LowRank:
    """``up(down(x))``: rows [n, in] -> [n, out], in the precision and on the device of the layer `beside`.

    `down` [r, in], `up` [out, r] with the scale folded in. Beside a packed layer they are packed, too, where
    PyTorch can: kernels of our own know formats that it packs on few processors.
    """

    def __init__(self, down: Tensor, up: Tensor, *, beside: Linear) -> None:
        self._down, self._up = _linear(down, beside), _linear(up, beside)

    def __call__(self, rows: Tensor) -> Tensor:
        return self._up(self._down(rows.to(self._down.weight.dtype)))


def _linear(weight: Tensor, beside: Linear) -> Linear:
    """weight [out, in] as a layer without a bias."""
    with torch.device("meta"):  # nothing is drawn at random, only to be replaced
        layer = Linear(weight.shape[1], weight.shape[0], bias=False)
    placed = weight.to(device=beside.weight.device, dtype=beside.weight.dtype)
    layer.weight = nn.Parameter(placed.contiguous(), requires_grad=False)
    if beside.packed:
        prepack(layer)
    return layer

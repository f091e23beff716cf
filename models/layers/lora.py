"""Low-rank changes of linear layers, several in one batch (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixing:
    """Which rows of a step run with which adapter; the others run with none."""

    rows: tuple[tuple[str, Tensor], ...]  # an adapter's name, and the indices of its rows [n]

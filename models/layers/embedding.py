"""Rows of a table, by number."""

from __future__ import annotations

from torch import nn


class Embedding(nn.Embedding):
    """A plain `nn.Embedding`: ids [T] -> [T, size]."""

    def reset_parameters(self) -> None:
        """Random rows; none on the meta device, where drawing nothing costs 1.2 s of imports."""
        if not self.weight.is_meta:
            super().reset_parameters()

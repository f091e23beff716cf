"""How far each family is from the reference implementation: collected while tests run, shown at their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isnan


@dataclass(slots=True)
class Agreement:
    """What one check found of one family: which configurations it looked at, and the largest difference."""

    configs: set[str] = field(default_factory=set)
    error: float = 0.0

    def add(self, config: str, error: float) -> None:
        self.configs.add(config)
        # NaN is worse than any number, and would be lost in `max`.
        self.error = error if isnan(error) else max(self.error, error)


class ParityTable:
    """Family x check -> number of configurations, largest absolute difference."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Agreement]] = {}
        self._checks: list[str] = []

    def add(self, family: str, config: str, check: str, error: float) -> None:
        if check not in self._checks:
            self._checks.append(check)
        self._found.setdefault(family, {}).setdefault(check, Agreement()).add(config, error)

    def lines(self) -> Iterator[str]:
        """The table as text, one line a family; nothing where nothing was added."""
        if not self._found:
            return
        rows = [("family", *self._checks)]
        rows += [(family, *self._cells(found)) for family, found in sorted(self._found.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    def _cells(self, found: dict[str, Agreement]) -> Iterator[str]:
        for check in self._checks:
            agreement = found.get(check)
            yield f"{len(agreement.configs)}: {agreement.error:.1e}" if agreement else "-"


TABLE = ParityTable()


def report(family: str, config: str, check: str, error: float) -> None:
    """Say that `check` compared `config` of `family` with the reference, and by how much they differ.

    `error` is the largest absolute difference, 0 where what is compared is equal or not (tokens). Call it
    before asserting, so that the table shows what failed too.
    """
    TABLE.add(family, config, check, error)

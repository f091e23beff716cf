"""The table of every family of models that is supported, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from models.catalogue import CATALOGUE
from models.families.registry import FAMILIES

HEADINGS = ("family", "`model_type`", "kind", "norm; positions; residual; MLP; more", "for example")


def text() -> str:
    """For a terminal: columns of even width, by two blanks apart; the last line without a newline."""
    rows = [tuple(cell.replace("`", "") for cell in row) for row in (HEADINGS, *_rows())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def markdown() -> str:
    """For a README; the last line without a newline."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *_rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows() -> Iterator[tuple[str, ...]]:
    """A row for each family of the registry, in the catalogue's order."""
    for model_type, entry in CATALOGUE.items():
        if model_type in FAMILIES:
            examples = ", ".join(f"`{example}`" for example in entry.examples)
            yield entry.title, f"`{model_type}`", entry.kind.value, entry.choices, examples

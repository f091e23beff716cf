"""Records as Markdown: what everyone measured, then how many times faster we are than each."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.peers.records import FIGURES, Figure, Record, Results, Subject

ABSENT = "-"
TITLES = {
    Subject.DECODER: "SmolLM2-135M-Instruct",
    Subject.MINILM: "all-MiniLM-L6-v2, embeddings, texts/s",
    Subject.BERT_BASE: "BERT-base (random weights) with logits of every token, texts/s",
}


def render(results: Results) -> str:
    """Markdown, a section for each subject that anything was measured of."""
    machine = "; ".join(f"{name}: {value}" for name, value in results.machine.items())
    sections = [machine, *(_section(subject, results.records) for subject in Subject)]
    return "\n\n".join(section for section in sections if section)


def times_faster(figure: Figure, ours: Record, theirs: Record) -> float | None:
    """Above 1: we are ahead. None where either has no such figure, or it is not above 0."""
    mine, other = ours.figures.get(figure.name), theirs.figures.get(figure.name)
    if mine is None or other is None or min(mine, other) <= 0:
        return None
    return other / mine if figure.is_time else mine / other


def _section(subject: Subject, records: Sequence[Record]) -> str:
    records = [record for record in records if record.subject is subject]
    if not records:
        return ""
    figures = FIGURES[subject]
    ours = [record for record in records if record.ours]
    theirs = [record for record in records if not record.ours]
    parts = [
        f"### {TITLES[subject]}",
        _table("", figures, [_measured(figures, one) for one in (*theirs, *ours)]),
        *(_ratios(figures, one, theirs) for one in ours if one.figures and theirs),
        "\n".join(f"- {one.label}: {reason}" for one in records for reason in one.failures),
        _versions(records),
    ]
    return "\n\n".join(part for part in parts if part)


def _measured(figures: Sequence[Figure], record: Record) -> list[str]:
    label = f"**{record.label}**" if record.ours else record.label
    missing = "failed" if record.failures else ABSENT
    values = (record.figures.get(figure.name) for figure in figures)
    cells = [
        missing if value is None else _figure(figure, value)
        for figure, value in zip(figures, values, strict=True)
    ]
    return [label, *cells]


def _ratios(figures: Sequence[Figure], ours: Record, theirs: Sequence[Record]) -> str:
    rows = [
        [one.label, *(_ratio(times_faster(figure, ours, one)) for figure in figures)]
        for one in theirs
        if one.figures
    ]
    return _table(f"{ours.label}, times faster than", figures, rows) if rows else ""


def _table(corner: str, figures: Sequence[Figure], rows: Sequence[Sequence[str]]) -> str:
    header = [corner, *(figure.heading for figure in figures)]
    return "\n".join(_line(cells) for cells in (header, ["---"] * len(header), *rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _figure(figure: Figure, value: float) -> str:
    if not figure.is_time:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _ratio(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f} x"


def _versions(records: Sequence[Record]) -> str:
    versions = {name: version for record in records for name, version in record.versions.items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))

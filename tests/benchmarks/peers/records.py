"""What was measured, in JSON that is whole at any time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class Subject(StrEnum):
    """What is run, and so which table a record is in."""

    DECODER = "decoder"
    MINILM = "minilm"
    BERT_BASE = "bert-base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A column: `name` in the records, `heading` in the table."""

    name: str
    heading: str
    is_time: bool = False  # in seconds, so that less is better; else a rate


FIGURES = {
    Subject.DECODER: (
        Figure(name="decode_1", heading="batch 1, tok/s"),
        Figure(name="decode_8", heading="batch 8"),
        Figure(name="decode_32", heading="batch 32"),
        Figure(name="prefill_512", heading="prefill 512, tok/s"),
        Figure(name="server_32", heading="server, 32 streams, tok/s"),
        Figure(name="first_token_s", heading="first token p50", is_time=True),
        Figure(name="longest_gap_s", heading="longest gap while 31 arrive", is_time=True),
        Figure(name="start_s", heading="start to first answer", is_time=True),
    ),
    **dict.fromkeys(
        (Subject.MINILM, Subject.BERT_BASE),
        tuple(
            Figure(name=f"batch{batch}_length{length}", heading=f"batch {batch}, {length} tokens")
            for length in (32, 128)
            for batch in (1, 32)
        ),
    ),
}


@dataclass(slots=True, kw_only=True)
class Record:
    """A row: the figures of one contender. `failures` say why there are fewer than there might be."""

    subject: Subject
    key: str
    label: str
    ours: bool
    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One run. `machine` says where, when and how."""

    machine: dict[str, str]
    records: list[Record]

    def write(self, path: Path) -> None:
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises ValueError where the file is no such record, OSError where there is none."""
        text = path.read_text(encoding="utf-8")
        try:
            content = json.loads(text)
            return cls(machine=content["machine"], records=list(_records(content["records"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no record of such a run: {error!r}") from error

    def start(self, record: Record) -> None:
        """In the place of an earlier one of the same contender, if there is one."""
        self.records[:] = [*(one for one in self.records if one.key != record.key), record]


def _records(content: Iterable[dict[str, object]]) -> Iterable[Record]:
    return (Record(**{**one, "subject": Subject(one["subject"])}) for one in content)  # type: ignore[arg-type]

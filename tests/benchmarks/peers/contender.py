"""Who takes part: what a row of the tables runs on, and how it is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.peers.processes import Word
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A module of `workers` to run with an interpreter. How long it measures, and with how many threads, is
    not said here: that is the same for all."""

    python: Path
    module: str
    task: Task
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """`words` start it and end in the flag that takes a port. `model`: what requests call it. `extras`:
    fields of requests that it alone knows."""

    words: Sequence[Word]
    model: str
    extras: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A row. `job` and `server` bring what they need when they are called: files, environments. They raise
    Failed where they cannot.

    environment: whose `distributions` have the versions that count; None is the one that this runs in, and
    means that the row is ours.
    """

    subject: Subject
    name: str
    label: str
    environment: str | None
    distributions: tuple[str, ...]
    job: Callable[[], Job] | None = None
    server: Callable[[], Server] | None = None

    @property
    def key(self) -> str:
        """What --only and --skip choose by."""
        return f"{self.subject}/{self.name}"

    @property
    def ours(self) -> bool:
        return self.environment is None

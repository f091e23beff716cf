"""Measures one contender: without HTTP, then as a server. What fails is written down; the rest goes on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from models.errors import ModelError
from tests.benchmarks.peers.contender import Contender, Job, Server
from tests.benchmarks.peers.processes import Failed, run
from tests.benchmarks.peers.records import Record
from tests.benchmarks.peers.serving import measure_server
from tests.benchmarks.peers.workshop import Workshop

Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long is measured. requests: of the load, in all. limit_s: of one job, and of a server's start."""

    repeats: int = 2
    at_least_s: float = 1.0
    requests: int = 64
    limit_s: float = 600.0


QUICK = Effort(repeats=1, at_least_s=0.3, requests=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`save` is called whenever a record has something new. `prompts`: for servers."""

    workshop: Workshop
    effort: Effort
    prompts: Sequence[str]
    save: Callable[[], None]

    def measure(self, contender: Contender, record: Record) -> None:
        """Fill in `record`."""
        record.versions = self._versions(contender)
        if contender.job is not None:
            self._try("offline", record, partial(self._offline, contender.job, record.key))
        if contender.server is not None:
            self._try("server", record, partial(self._served, contender.server, record.key))
        self.save()

    def _try(self, stage: str, record: Record, measure: Callable[[], Figures]) -> None:
        try:
            for figure, value in measure():
                record.figures[figure] = value
                say(f"{record.key}: {figure} {value:.4g}")
                self.save()
        except (Failed, ModelError) as error:
            record.failures.append(f"{stage}: {error}")
            say(f"{record.key}: {stage} FAILED: {error}")
            self.save()

    def _offline(self, bring: Callable[[], Job], key: str) -> Figures:
        """Also what a worker reported before it failed."""
        job = bring()
        output = self.workshop.folder / "figures.jsonl"
        output.unlink(missing_ok=True)
        effort, workshop = self.effort, self.workshop
        task = replace(
            job.task,
            output=str(output),
            threads=workshop.threads,
            repeats=effort.repeats,
            at_least_s=effort.at_least_s,
        )
        command = replace(
            workshop.worker(job.python, job.module, task, job.variables), log=self._log(key, "offline")
        )
        try:
            run(command, limit_s=effort.limit_s)
        finally:
            yield from _read(output)

    def _served(self, bring: Callable[[], Server], key: str) -> Figures:
        yield from measure_server(
            bring(),
            self.workshop,
            self._log(key, "server"),
            self.prompts,
            requests=self.effort.requests,
            limit_s=self.effort.limit_s,
        )

    def _log(self, key: str, stage: str) -> Path:
        log = self.workshop.logs / f"{key.replace('/', '-')}-{stage}.log"
        log.unlink(missing_ok=True)
        return log

    def _versions(self, contender: Contender) -> dict[str, str]:
        if contender.environment is None:
            return {name: version(name) for name in ("triptych", *contender.distributions)}
        try:
            return self.workshop.environment(contender.environment).versions(contender.distributions)
        except Failed:
            return {}


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _read(output: Path) -> Figures:
    if output.exists():
        for line in output.read_text(encoding="utf-8").splitlines():
            yield from json.loads(line).items()

"""A contender that fails says why, keeps what it had, and leaves nothing running."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.peers import command
from tests.benchmarks.peers.contender import Contender, Job
from tests.benchmarks.peers.measurement import Effort, Measurement
from tests.benchmarks.peers.processes import Command, Failed, run
from tests.benchmarks.peers.records import Record, Subject
from tests.benchmarks.peers.workers.task import Task
from tests.benchmarks.peers.workshop import Workshop


def python(code: str, folder: Path) -> Command:
    return Command(words=[sys.executable, "-c", code], log=folder / "log", folder=folder)


def test_a_failure_quotes_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="status 3: no such model"):
        run(python("import sys; print('no such model'); sys.exit(3)", tmp_path), limit_s=60)


def test_what_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with pytest.raises(Failed, match="not done in 1 s"):
        run(python(code, tmp_path), limit_s=1)
    assert _ends(int((tmp_path / "log").read_text()))


def _ends(process: int) -> bool:
    """Within five seconds: what is killed is gone only when the system has got round to it."""
    status = Path(f"/proc/{process}/stat")
    until_s = time.monotonic() + 5
    while time.monotonic() < until_s:
        try:
            if status.read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_what_cannot_be_started_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot be started"):
        run(Command(words=[tmp_path / "nothing"], log=tmp_path / "log", folder=tmp_path), limit_s=1)


def test_another_interpreter_is_not_led_to_our_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run(
        python("import sys; assert sys.argv and not __import__('os').getenv('PYTHONPATH')", tmp_path),
        limit_s=60,
    )
    assert os.environ["PYTHONPATH"] == str(tmp_path)


def measured(job: Callable[[], Job], folder: Path) -> Record:
    contender = Contender(
        subject=Subject.MINILM, name="one", label="One", environment=None, distributions=(), job=job
    )
    record = Record(subject=contender.subject, key=contender.key, label=contender.label, ours=contender.ours)
    workshop = Workshop(folder, threads=1)
    Measurement(workshop=workshop, effort=Effort(limit_s=60), prompts=(), save=lambda: None).measure(
        contender, record
    )
    return record


def test_what_cannot_be_prepared_is_in_the_record(tmp_path: Path) -> None:
    def job() -> Job:
        raise Failed("vllm cannot be installed: no such wheel")

    assert measured(job, tmp_path).failures == ["offline: vllm cannot be installed: no such wheel"]


def test_a_worker_that_dies_is_in_the_record(tmp_path: Path) -> None:
    task = Task(model=str(tmp_path / "missing"), output="")
    record = measured(lambda: Job(python=Path(sys.executable), module="ours", task=task), tmp_path)
    (failure,) = record.failures
    assert "missing" in failure
    assert record.figures == {}


def test_names_choose_by_subject_name_and_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--work", str(tmp_path), "--list", "--only", "minilm", "--skip", "o*"]) == 0
    assert capsys.readouterr().out.split() == ["minilm/transformers-fp32", "minilm/transformers-bf16"]


@pytest.mark.parametrize("flags", [["--only", "nobody"], ["--ours", "int8"], ["--show", "nothing.json"]])
def test_a_mistaken_command_line_is_refused(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(["--work", str(tmp_path), *flags])
    assert refused.value.code == 2

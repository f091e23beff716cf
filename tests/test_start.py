"""How the processes start: what is imported when, and who ends whom."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from server import start
from server.settings import BadSetting, Settings

HEAVY = {
    "torch",
    "numpy",
    "fastapi",
    "pydantic",
    "uvicorn",
    "tokenizers",
    "msgspec",
    "asyncio",
    "tqdm",
    "models.families",
}


def imported_by(program: str) -> set[str]:
    report = f"{program}\nprint(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", f"import sys\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("module", ["server.cli", "server.start", "server.start_engine"])
def test_nothing_heavy_stands_before_the_engine_process(module: str) -> None:
    assert not imported_by(f"import {module}") & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    call = f"from server.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
    assert not imported_by(call) & HEAVY


def test_the_families_are_listed_without_torch() -> None:
    call = "from server.cli import main\nmain(['models', '--supported'])"
    assert not imported_by(call) & (HEAVY - {"models.families"})


def test_the_engine_process_ends_when_its_link_closes() -> None:
    began = time.monotonic()
    with start.engine_process() as link:
        assert link.fileno() >= 0
    assert time.monotonic() - began < start.GRACE_S  # of itself, and without a word to load anything


def test_what_fails_before_there_is_anything_to_load_waits_for_nobody() -> None:
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), start.engine_process():
        raise ZeroDivisionError
    assert time.monotonic() - began < 1.0


def test_a_port_in_use_starts_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "engine_process", lambda: pytest.fail("it was started"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadSetting, match=f"--port {port}: cannot listen"):
            start.serve(Settings(port=port))

"""Runs peers as processes of their own, with a time limit, and ends all of what they started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

GRACE_S = 15.0
QUOTED_LINES = 3


Word = str | Path


class Failed(Exception):
    """Something of a peer went wrong. The message is what the table says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`words` to run in `folder`, with `variables` besides the environment of this process."""

    words: Sequence[Word]
    log: Path  # gets its output
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The end of its output, on one line."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join([line.strip() for line in lines if line.strip()][-QUOTED_LINES:])


def run(command: Command, *, limit_s: float) -> None:
    """Raises Failed where it does not end well, or in time."""
    with running(command) as process:
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done in {limit_s:.0f} s") from None
    if status:
        raise Failed(f"ended with status {status}: {command.said}")


@contextmanager
def running(command: Command) -> Iterator[subprocess.Popen[bytes]]:
    """Started, and ended with all of its children when the block is left. Raises Failed where there is no
    such program."""
    with command.log.open("ab") as log:
        try:
            process = subprocess.Popen(
                [str(word) for word in command.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=command.folder,
                env=_environment(command.variables),
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"cannot be started: {error}") from error
    try:
        yield process
    finally:
        _end(process)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Without what would lead another interpreter to our packages."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TRIPTYCH_"))}
    return mine | dict(variables)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks first; then kills what is left of its group, whether or not it has ended itself."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

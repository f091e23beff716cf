"""The kernels of each instruction set that this processor has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.native.building import BUILT, find_library
from models.native.library import Library
from server.settings import Settings
from tests.models.native.sanitized import WATCHED, open_watched

SETS = ("plain", "avx2", "avx512")


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Path:
    """The library's file. `sanitized.py` brings one that was built otherwise."""
    if WATCHED is not None:
        return WATCHED
    request.getfixturevalue("kernels")
    found = find_library(BUILT) or find_library(Settings().cache / "kernels")
    assert found is not None
    return found


@pytest.fixture(scope="session", params=SETS)
def library(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A copy: what other tests start does not change it. Two threads, unless a test starts it anew."""
    copy = tmp_path_factory.mktemp("library") / built.name
    shutil.copy(built, copy)
    library = Library(copy) if WATCHED is None else open_watched(copy)
    if not library.start(request.param, 2):
        pytest.skip(f"this processor has no {request.param}")
    return library

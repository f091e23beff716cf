"""What all tests share: the kernels, and what the whole run says at its end about parity."""

from __future__ import annotations

import pytest

from models.native.building import CannotBuild
from models.native.library import Library, open_library
from server.settings import Settings
from tests.models.native.sanitized import WATCHED, open_watched
from tests.models.parity import TABLE


@pytest.fixture(scope="session")
def kernels() -> Library:
    """The best that this processor has, on two threads; compiled at first use into the cache of servers."""
    if WATCHED is not None:
        library = open_watched(WATCHED)
        assert library.start("", 2)
        return library
    try:
        return open_library(Settings().cache, kernels="auto", threads=2)
    except CannotBuild as error:
        pytest.skip(f"no kernels: {error}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = list(TABLE.lines())
    if not lines:
        return
    terminalreporter.section("parity with transformers: number of configurations, largest difference")
    for line in lines:
        terminalreporter.write_line(line)

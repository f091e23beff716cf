"""What the whole run says at its end: how far each family of models is from the reference."""

from __future__ import annotations

import pytest

from tests.models.parity import TABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = list(TABLE.lines())
    if not lines:
        return
    terminalreporter.section("parity with transformers: number of configurations, largest difference")
    for line in lines:
        terminalreporter.write_line(line)

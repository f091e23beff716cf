"""What needs lm-eval is marked, and is left out where it is not installed."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lm_eval: needs lm-eval with its extras `api` and `hf`; takes minutes")

"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: every kind of operation once."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.models.native import sanitized

HERE = "tests/models/native/ops"
REPRESENTATIVE = (
    f"{HERE}/test_rows.py",
    f"{HERE}/test_products.py",
    f"{HERE}/test_attention.py",
    "-k",
    "formula or size or apart or bytes or larger or (schedule and 70)",
)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.skipif("TRIPTYCH_TESTED_LIBRARY" in os.environ, reason="this is such a run")
def test_sanitizers_find_nothing() -> None:
    assert sanitized.main("address,undefined", *REPRESENTATIVE) == 0

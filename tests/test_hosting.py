"""What the engine process says of itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from server import hosting

CPU = torch.device("cpu")


def test_the_fingerprint_follows_the_libraries_that_decide_over_a_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"numpy": "2.0", "tokenizers": "0.22", "llguidance": "1.0"}

    def version(library: str) -> str:
        if library not in installed:
            raise PackageNotFoundError(library)
        return installed[library]

    monkeypatch.setattr(hosting, "version", version)
    seen = {hosting._computing(CPU, torch.float32)}
    assert hosting._computing(CPU, torch.float32) in seen
    for library in list(installed):
        installed[library] += ".1"
        seen.add(hosting._computing(CPU, torch.float32))
    del installed["llguidance"]  # an extra
    seen.add(hosting._computing(CPU, torch.float32))
    assert len(seen) == 5


def test_the_fingerprint_follows_our_own_code_that_decides_over_a_text() -> None:
    """A file that was moved away would be left out without a word."""
    here = Path(hosting.__file__).parent
    assert all((here / source).exists() for source in hosting.DECIDING)
    assert {"execution", "text", "engine/sources.py", "scheduling/beams.py"} <= set(hosting.DECIDING)

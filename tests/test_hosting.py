"""What the engine process says of itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import transformers

from models.loading import load
from models.native.library import Library
from server import hosting
from server.engine.messages import ModelSetup
from server.execution.computing import Computing
from tests.models import encoder_configs

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
    computing = Computing(device=CPU, dtype=torch.float32, threads=1)
    seen = {hosting._deciding(computing)}
    assert hosting._deciding(computing) in seen
    for library in list(installed):
        installed[library] += ".1"
        seen.add(hosting._deciding(computing))
    del installed["llguidance"]  # an extra
    seen.add(hosting._deciding(computing))
    assert len(seen) == 5


def test_the_fingerprint_follows_our_own_code_that_decides_over_a_text() -> None:
    """A file that was moved away would be left out without a word."""
    here = Path(hosting.__file__).parent
    assert all((here / source).exists() for source in hosting.DECIDING)
    assert {"execution", "text", "engine/sources.py", "scheduling/beams.py"} <= set(hosting.DECIDING)


@pytest.mark.parametrize("family", ["deberta-v2, as v3", "bert, plain"])
def test_attention_that_kernels_do_not_know_is_named(
    family: str, kernels: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = encoder_configs.CONFIGS[family]()
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    computing = Computing(device=CPU, dtype=torch.float32, threads=2, kernels=kernels)
    host = hosting.Host(
        computing, kv_memory=0, step_tokens=16, max_sequences=1, speculation=False, deciding=""
    )
    loaded = load(tmp_path, device=CPU, dtype=torch.float32, kernels=kernels)
    card = host.admit(ModelSetup(name="m", path="", source=""), loaded).card
    named = "attention of deberta-v2 in PyTorch"
    assert (named in card.kernels) == (named in caplog.text) == family.startswith("deberta")
    assert card.kernels.startswith(kernels.name)

"""Fingerprints: what changes them, and what does not."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.numerics import numerics
from models.weights import fingerprint
from models.weights.fingerprint import combine, digest, digest_code, digest_soon, sha256_soon

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
PRINT = (
    "import torch; from models.numerics import numerics; "
    "print(numerics(torch.device('cpu'), torch.float32), numerics(torch.device('cpu'), torch.bfloat16))"
)


def numerics_in_another_process(**environment: str) -> list[str]:
    """Of float32 and bfloat16."""
    run = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=ROOT,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return run.stdout.split()


def test_numerics_stay_the_same_over_restarts_and_threads() -> None:
    here = [numerics(CPU, dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert numerics_in_another_process(OMP_NUM_THREADS="1") == here


def test_numerics_tell_precisions_apart() -> None:
    assert len({numerics(CPU, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}) == 3


@pytest.mark.skipif(
    "Math Kernel Library" not in torch.__config__.show(), reason="this build of torch has no MKL"
)
def test_numerics_see_which_kernels_the_environment_chooses() -> None:
    float32, _ = numerics_in_another_process(MKL_CBWR="COMPATIBLE")
    assert float32 != numerics(CPU, torch.float32)


def test_numerics_follow_the_processor_and_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {numerics(CPU, torch.float32)}
    capabilities = dict(torch.cpu.get_capabilities())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities | {"num_physical_cores": 999})
    assert numerics(CPU, torch.float32) in seen  # how many cores there are does not matter
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities | {"avx2": "another"})
    seen.add(numerics(CPU, torch.float32))
    monkeypatch.setattr(torch, "__version__", "99.0")
    seen.add(numerics(CPU, torch.float32))
    assert len(seen) == 3


def test_the_head_of_a_large_file_is_covered_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEAD_BYTES": 64, "WINDOW_BYTES": 16, "WINDOWS": 4}.items():
        monkeypatch.setattr(fingerprint, name, value)
    file = tmp_path / "large.gguf"
    seen = set()
    for place in (None, 0, 40, 63, 999):  # 40 and 63 lie in no window
        content = bytearray(1000)
        if place is not None:
            content[place] = 1
        file.write_bytes(content)
        seen.add(digest([file]))
    assert len(seen) == 5


def test_begun_soon_or_now_it_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    assert digest_soon([file])() == digest([file])
    with pytest.raises(FileNotFoundError):
        digest_soon([tmp_path / "none"])()


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("content", [b"", b"weights" * 1000])
def test_the_sum_that_publishers_state_is_that_of_the_content(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert sha256_soon(file)() == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        sha256_soon(tmp_path / "none")()


def test_code_is_told_apart_by_content_and_place_within_its_package(tmp_path: Path) -> None:
    files = {"a.py": "one", "ops/b.cpp": "two"}
    seen = {digest_code(write(tmp_path / "first", files))}
    elsewhere = write(tmp_path / "second", files | {"README.md": "words", "__pycache__/a.pyc": "bytes"})
    assert digest_code(elsewhere) in seen
    for number, changed in enumerate(
        ({"a.py": "other"}, {"ops/b.cpp": "other"}, {"ops/c.py": ""}, {"a.py": "onetwo", "ops/b.cpp": ""})
    ):
        seen.add(digest_code(write(tmp_path / str(number), files | changed)))
    assert len(seen) == 5


def test_a_single_file_is_code_too(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.py": "one", "b.py": "one", "c.py": "two"})
    first, same, other = (digest_code(folder / name) for name in ("a.py", "b.py", "c.py"))
    assert first == same != other


def test_a_fingerprint_is_short_and_follows_every_part() -> None:
    seen = {combine("weights", "numerics", "code")}
    assert re.fullmatch("fp_[0-9a-f]{16}", next(iter(seen)))
    for parts in (
        ("others", "numerics", "code"),
        ("weights", "numerics", "edited"),
        ("weightsn", "umerics", "code"),
    ):
        seen.add(combine(*parts))
    assert len(seen) == 4

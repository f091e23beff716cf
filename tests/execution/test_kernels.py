"""Who gets kernels of our own, who is told why not, and who is refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.native.building import CannotBuild
from models.native.quantise import Quantise
from server.execution import kernels
from server.execution.kernels import KernelsUnavailable, open_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FLOAT32, FLOAT16 = torch.float32, torch.float16
OURS: Any = SimpleNamespace(name="avx2")  # stands for a library: what it computes is tested elsewhere

Machine = Callable[..., Any]


def able(cache: Path, *, kernels: str, threads: int) -> Any:
    """Opens a library on a machine that has AVX2 and a compiler."""
    if kernels not in ("auto", "avx2"):
        raise CannotBuild(f"this processor has no {kernels}")
    return OURS


def without_a_compiler(cache: Path, *, kernels: str, threads: int) -> Any:
    raise CannotBuild("there is no C++ compiler (c++, g++ or clang++)")


@pytest.mark.parametrize(
    ("machine", "named", "device", "dtype", "quantise", "expected"),
    [
        (able, "auto", CPU, FLOAT32, None, OURS),
        (able, "avx2", CPU, FLOAT32, None, OURS),
        (able, "auto", CPU, FLOAT32, Quantise.INT8, OURS),
        (able, "torch", CPU, FLOAT32, None, None),
        (able, "torch", GPU, FLOAT32, None, None),
        (able, "auto", GPU, FLOAT32, None, None),
        (able, "auto", CPU, FLOAT16, None, "they compute in float32 and bfloat16, not in float16"),
        (without_a_compiler, "auto", CPU, FLOAT32, None, "there is no C++ compiler"),
        (without_a_compiler, "torch", CPU, FLOAT32, None, None),
    ],
)
def test_kernels_are_ours_or_pytorch_s_and_the_log_says_what_is_lost(
    machine: Machine,
    named: str,
    device: torch.device,
    dtype: torch.dtype,
    quantise: Quantise | None,
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """`expected`: the library; a warning, or none, where there is no library."""
    monkeypatch.setattr(kernels, "open_library", machine)
    with caplog.at_level(logging.INFO):
        opened = open_kernels(named, cache=tmp_path, threads=2, device=device, dtype=dtype, quantise=quantise)
    assert opened is (OURS if expected is OURS else None)
    said = [record.message for record in caplog.records]
    if isinstance(expected, str):
        assert len(said) == 1
        assert said[0].startswith(f"no kernels of our own: {expected}")
        assert said[0].endswith("PyTorch computes, three to five times slower")
    else:
        assert said == []


@pytest.mark.parametrize(
    ("machine", "named", "device", "dtype", "quantise", "complaint"),
    [
        (able, "avx512", CPU, FLOAT32, None, "--kernels avx512: this processor has no avx512"),
        (able, "avx512", GPU, FLOAT32, None, "--kernels avx512: they are for CPUs, not for cuda"),
        (able, "plain", CPU, FLOAT16, None, "--kernels plain: they compute in float32 and bfloat16, not in"),
        (without_a_compiler, "plain", CPU, FLOAT32, None, "--kernels plain: there is no C++ compiler"),
        (able, "torch", CPU, FLOAT32, Quantise.INT8, "--quantize int8 needs kernels of our own: --kernels"),
        (able, "auto", GPU, FLOAT32, Quantise.KEEP, "--quantize keep needs kernels of our own: they are for"),
        (able, "auto", CPU, FLOAT16, Quantise.INT4, "--quantize int4 needs kernels of our own: they compute"),
        (
            without_a_compiler,
            "auto",
            CPU,
            FLOAT32,
            Quantise.INT8,
            "needs kernels of our own: there is no C++",
        ),
    ],
)
def test_kernels_that_are_named_or_needed_and_cannot_be_had_are_an_error(
    machine: Machine,
    named: str,
    device: torch.device,
    dtype: torch.dtype,
    quantise: Quantise | None,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(kernels, "open_library", machine)
    with pytest.raises(KernelsUnavailable, match=re.escape(complaint)):
        open_kernels(named, cache=tmp_path, threads=2, device=device, dtype=dtype, quantise=quantise)

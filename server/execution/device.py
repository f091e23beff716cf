"""Which device and precision "auto" means here, and how much memory there is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from models.invariance import Scores, keeps_its_bits
from models.native.library import Library
from models.native.quantise import Quantise

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DeviceError(Exception):
    """The device cannot do what was asked. The message says what, and which setting to change."""


class DeviceUnavailable(DeviceError):
    """It is not there."""


class NotEnoughMemory(DeviceError):
    """It has too little memory."""


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda`. Raises DeviceUnavailable."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("--device cuda: PyTorch finds no usable CUDA device")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it, else float32, unless named."""
    if name != "auto":
        return DTYPES[name]
    return torch.bfloat16 if device.type == "cuda" or _cpu_multiplies_bfloat16() else torch.float32


def is_batch_invariant(
    device: torch.device,
    dtype: torch.dtype,
    scores: Scores = Scores.PLAIN,
    kernels: Library | None = None,
    quantise: Quantise | None = None,
) -> bool:
    """Whether a text is the same bit for bit alone and in any company, for models with such `scores`.

    Tests hold it for the CPU's float32 and bfloat16. Whether the kernels of this machine allow it is tried.
    """
    known = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    return known and keeps_its_bits(dtype, scores, kernels, quantise)


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated now; on a CPU within the limit of a container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = (_lines(Path("/sys/fs/cgroup", name)) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdigit():
        available = min(available, int(limit[0]) - int(used[0]) + _reclaimable())
    return max(available, 0)


@contextmanager
def allocating(purpose: str) -> Iterator[None]:
    """Turns whatever an allocation that fails raises into NotEnoughMemory for this purpose."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_for_want_of_memory(error):
            raise
        raise NotEnoughMemory(f"not enough memory for {purpose}: {error}") from error


def _is_for_want_of_memory(error: Exception) -> bool:
    """NumPy raises MemoryError; PyTorch errors of its own, on a CPU one that has only its text; the system
    says ENOMEM."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _reclaimable() -> int:
    """Bytes of a container's use that are only copies of files, given up when somebody needs room."""
    lines = (line.split() for line in _lines(Path("/sys/fs/cgroup/memory.stat")))
    return sum(int(size) for name, size in lines if name in ("inactive_file", "active_file"))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _cpu_multiplies_bfloat16() -> bool:
    """AVX512-BF16 or AMX: without them bfloat16 is emulated, slower than float32."""
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)

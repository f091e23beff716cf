"""What rounds: the arithmetic of this process on this machine, as a fingerprint."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.linear import Linear, prepack, project


def numerics(device: torch.device, dtype: torch.dtype) -> str:
    """32 hexadecimal digits that change with whatever may round a result of the same weights otherwise.

    Covered are the precision, PyTorch with the libraries in it, and the processor or GPU. Environment
    variables choose kernels as well (`MKL_CBWR`, `ONEDNN_MAX_CPU_ISA`, …), and there is no list of them: so
    the bits of a small computation are covered, too. The number of threads is not: sums are not cut by it.
    """
    stated = (torch.__version__, torch.__config__.show(), *_processor(device), device.type, str(dtype))
    sha = hashlib.sha256("\0".join(stated).encode())
    sha.update(_trial(device, dtype))
    return sha.hexdigest()[:32]


def _processor(device: torch.device) -> list[str]:
    """Instruction sets and caches, by which kernels and tiles are chosen; not the number of cores."""
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device))]
    capabilities = torch.cpu.get_capabilities()
    return [f"{name}={value}" for name, value in sorted(capabilities.items()) if not name.startswith("num_")]


@torch.inference_mode()
def _trial(device: torch.device, dtype: torch.dtype) -> bytes:
    """Products, an attention, a norm and an activation of fixed numbers, bit for bit."""
    rows, weight, heads = (_numbers(count, 1024).to(device, dtype) for count in (8, 256, 32))
    # What the first half of a product adds up to, the second takes away: rounding is all that is left.
    rows = torch.cat([rows, rows.flip(-1)], dim=-1)
    weight = torch.cat([weight, -weight.flip(-1)], dim=-1)
    linear = Linear(2048, 256, bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    prepack(linear)
    heads = heads.view(1, 4, 128, 64)
    mask = torch.zeros(128, 128, device=device, dtype=dtype)
    attended = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
    flat = (F.rms_norm(heads, (64,)), F.silu(heads), heads.float().softmax(-1))
    results = (linear(rows), project(rows, weight), attended, *flat)
    return b"".join(result.float().cpu().contiguous().numpy().tobytes() for result in results)


def _numbers(rows: int, columns: int) -> Tensor:
    """[rows, columns] float32 in [-1, 1], scattered, and the same on every machine.

    Cubes, because they span many exponents: sums of evenly spaced numbers would be exact in any order.
    """
    even = torch.arange(rows * columns) * 40503 % 65536 / 32768 - 1
    return (even * even * even).view(rows, columns)

"""Small models of every family, each twice: as PyTorch computes it, and on the kernels."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.config import Config, StackConfig
from models.families.registry import read
from models.layers.norm import OffsetRMSNorm
from models.native.attach import attach
from models.native.library import Library
from models.native.quantise import Packing
from models.positions import Learned

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Relative: sums in another order, and operands that are rounded to eight bits on the way.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
CONTEXT = 1024

_SCALES: Mapping[type[nn.Module], float] = {nn.LayerNorm: 0.5, nn.RMSNorm: 0.5, OffsetRMSNorm: -0.5}

AnyModel = TypeVar("AnyModel", bound=nn.Module)
AnyStack = TypeVar("AnyStack", bound=StackConfig)


@dataclass(frozen=True, slots=True)
class Twins(Generic[AnyModel]):
    """The same weights. The one in PyTorch is float32 throughout, whatever the weights are rounded to."""

    plain: AnyModel
    native: AnyModel
    dtype: torch.dtype

    @classmethod
    def of(cls, plain: AnyModel, dtype: torch.dtype, kernels: Library) -> Twins[AnyModel]:
        """Gives `plain` random weights."""
        plain.eval().requires_grad_(False)
        randomise(plain)
        for parameter in plain.parameters():
            parameter.data = parameter.data.to(dtype).float()
        native = copy.deepcopy(plain)
        for parameter in native.parameters():
            parameter.data = parameter.data.to(dtype)
        attach(native, Packing(library=kernels, dtype=dtype))
        return cls(plain, native, dtype)

    def check(self, actual: Tensor, expected: Tensor) -> None:
        """What the native one computed is near enough to what the plain one did: as a whole, and no single
        number is farther off than twice that of the largest one."""
        apart, limit = actual - expected, LIMITS[self.dtype]
        assert apart.norm() <= limit * expected.norm()
        assert apart.abs().max() <= 2 * limit * expected.abs().max()


def randomise(model: nn.Module) -> None:
    """The same weights each time, as mild as trained ones: where a softmax chooses one key of two that are
    nearly alike, rounding would decide. Norms do not have what they begin with."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        scales = _SCALES.get(type(module), 0.0)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 * parameter.shape[-1] ** -0.5, generator=generator)
            else:
                parameter.normal_(mean=scales * (name == "weight"), std=0.1, generator=generator)


def config_of(build: Callable[[], Any]) -> Config:
    """What we make of the file that transformers writes of a configuration."""
    return read(json.loads(build().to_json_string()))[1]


def configs_of(*tables: Mapping[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    return {name: build for table in tables for name, build in table.items()}


def lengthened(config: AnyStack) -> AnyStack:
    """The same for texts of `CONTEXT` tokens."""
    positions: object = getattr(config, "positions", None)
    if isinstance(positions, Learned):
        positions = replace(positions, rows=CONTEXT + positions.offset)
        return replace(config, context_length=CONTEXT, positions=positions)  # type: ignore[call-arg]
    return replace(config, context_length=CONTEXT)


def tokens_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(2, 80, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def assert_same_bits(changed: Tensor, expected: Tensor) -> None:
    assert (changed != expected).any(dim=-1).nonzero().flatten().tolist() == []

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
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layers.norm import OffsetRMSNorm
from models.native.attach import attach
from models.native.library import Library
from models.native.quantise import Packing, Quantise
from models.native.structures import PANEL, Format
from models.native.weights import Matrix
from models.positions import Learned
from tests.models.native.ops.operations import rounded_to_bytes

CONTEXT = 1024

_SCALES: Mapping[type[nn.Module], float] = {nn.LayerNorm: 0.5, nn.RMSNorm: 0.5, OffsetRMSNorm: -0.5}

AnyModel = TypeVar("AnyModel", bound=nn.Module)
AnyStack = TypeVar("AnyStack", bound=StackConfig)


@dataclass(frozen=True, slots=True)
class Precision:
    """In what the native one of two models computes, and how far it may be off: relative."""

    dtype: torch.dtype
    limit: float
    quantise: Quantise | None = None


PRECISIONS = {
    "float32": Precision(torch.float32, 1e-5),  # sums in another order
    "bfloat16": Precision(torch.bfloat16, 1e-2),  # operands that are rounded to eight bits on the way
    "int8": Precision(
        torch.float32, 1e-2, Quantise.INT8
    ),  # where a sum in another order rounds to another byte
    "int4": Precision(torch.float32, 1e-5, Quantise.INT4),
}
FLOATS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Twins(Generic[AnyModel]):
    """The same weights. The one in PyTorch is float32 throughout, whatever the weights are rounded to."""

    plain: AnyModel
    native: AnyModel
    precision: Precision

    @classmethod
    def of(cls, plain: AnyModel, precision: Precision, kernels: Library) -> Twins[AnyModel]:
        """Gives `plain` random weights."""
        plain.eval().requires_grad_(False)
        randomise(plain)
        for parameter in plain.parameters():
            parameter.data = parameter.data.to(precision.dtype).float()
        native = copy.deepcopy(plain)
        for parameter in native.parameters():
            parameter.data = parameter.data.to(precision.dtype)
        attach(native, Packing(library=kernels, dtype=precision.dtype, quantise=precision.quantise))
        if precision.quantise is not None:
            for imitating, part in zip(plain.modules(), native.modules(), strict=True):
                imitate(imitating, part)
        return cls(plain, native, precision)

    @property
    def dtype(self) -> torch.dtype:
        """Of the native one's cache."""
        return self.precision.dtype

    def check(self, actual: Tensor, expected: Tensor) -> None:
        """What the native one computed is near enough to what the plain one did: as a whole, and no single
        number is farther off than twice that of the largest one."""
        apart, limit = actual - expected, self.precision.limit
        assert apart.norm() <= limit * expected.norm()
        assert apart.abs().max() <= 2 * limit * expected.abs().max()


class BluntLinear(Linear):
    """Sees rows as bytes."""

    def _multiply(self, rows: Tensor) -> Tensor:
        return super()._multiply(rounded_to_bytes(rows).float())


class BluntEmbedding(Embedding):
    """Compares rows as bytes with its own."""

    def compare(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        return super().compare(rounded_to_bytes(rows).float(), bias)


def imitate(plain: nn.Module, native: nn.Module) -> None:
    """Give a part what the native one's matrix stands for, and have it see what that sees."""
    if not isinstance(plain, Linear | Embedding) or not isinstance(native, Linear | Embedding):
        return
    if native.matrix is None:
        return
    plain.weight.data = numbers_of(native.matrix)
    if native.matrix.weight.operand == Format.INT8:
        plain.__class__ = BluntLinear if isinstance(plain, Linear) else BluntEmbedding


def numbers_of(matrix: Matrix) -> Tensor:
    """[outputs, inputs]: what a packed matrix stands for."""
    if not matrix.gated:
        return matrix.rows(torch.arange(matrix.outputs))
    halves = torch.arange(matrix.weight.outputs).view(-1, 2, PANEL // 2).unbind(1)  # as they lie in panels
    return torch.cat([matrix.rows(half.flatten())[: matrix.outputs // 2] for half in halves])


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


def plainest(configs: Mapping[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """The first configuration of each family."""
    first = {name.partition(",")[0]: name for name in reversed(tuple(configs))}
    return {name: configs[name] for name in first.values()}


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

"""Reads a PEFT folder, `adapter_config.json` beside `adapter_model.safetensors`, as strictly as a model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import BrokenCheckpoint, PickleRefused, SourceNotFound, UnsupportedModel, WeightsMismatch
from models.lora_config import Scaling, Targets, read_config
from models.weights.fingerprint import digest
from models.weights.safetensors_folder import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")
WRAPPER = "base_model.model."  # what PEFT puts around a model
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class Change:
    """What is added to one module's weight: ``up @ down``, the factor folded into `up`."""

    down: Tensor  # [r, in] float32
    up: Tensor  # [out, r] float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685), not yet part of any model.

    `changes` are by the names that their modules have in the model that its author trained. `base` is what
    the author called that model: worth telling, proving nothing.
    """

    path: Path
    base: str | None
    targets: Targets
    changes: Mapping[str, Change]
    fingerprint: str  # 32 hexadecimal digits over both files


def read_lora(folder: Path) -> Lora:
    """Raises SourceNotFound, PickleRefused, UnsupportedModel naming what is not implemented, BrokenCheckpoint
    or WeightsMismatch listing tensors that are no pair, or not of the rank that the configuration says.
    """
    _check_files(folder)
    raw = read_json(folder / CONFIG)
    try:
        targets, scaling = read_config(raw)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{folder / CONFIG}: {error}") from error
    base = raw.get("base_model_name_or_path")
    return Lora(
        path=folder,
        base=base if isinstance(base, str) else None,
        targets=targets,
        changes=_changes(folder, _read_tensors(folder / WEIGHTS), scaling),
        fingerprint=digest([folder / CONFIG, folder / WEIGHTS]),
    )


def _check_files(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    pickles = [name for name in PICKLES if (folder / name).is_file()]
    if pickles:
        raise PickleRefused(folder, pickles)
    raise SourceNotFound(f"{folder} has no {WEIGHTS}; an adapter is a folder with that and {CONFIG}")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise BrokenCheckpoint(path, f"not readable as safetensors: {error}") from error


def _changes(folder: Path, tensors: Mapping[str, Tensor], scaling: Scaling) -> dict[str, Change]:
    """By module. There may be nothing but pairs: no embeddings, no biases, no layers saved as a whole."""
    modules = sorted({_module(name) for name in tensors} - {""})
    expected = {tensor_name(module, side) for module in modules for side in (DOWN, UP)}
    missing, left_over = expected - tensors.keys(), tensors.keys() - expected
    if missing or left_over:
        raise WeightsMismatch(folder, missing=missing, left_over=left_over)
    if not modules:
        raise BrokenCheckpoint(folder / WEIGHTS, "it has no tensors")
    misshapen, changes = list[str](), dict[str, Change]()
    for module in modules:
        down, up = (tensors[tensor_name(module, side)].float() for side in (DOWN, UP))
        rank, factor = scaling.of(module)
        misshapen += _misshapen(module, down, up, rank)
        changes[module] = Change(down, up * factor)
    if misshapen:
        raise WeightsMismatch(folder, misshapen=misshapen)
    return changes


def tensor_name(module: str, side: str) -> str:
    """As the file has it; `side` is DOWN or UP."""
    return f"{WRAPPER}{module}{side}"


def _module(name: str) -> str:
    """Whose change a tensor is a half of; empty where it is none."""
    for side in (DOWN, UP):
        if name.startswith(WRAPPER) and name.endswith(side):
            return name.removeprefix(WRAPPER).removesuffix(side)
    return ""


def _misshapen(module: str, down: Tensor, up: Tensor, rank: int) -> list[str]:
    if down.dim() == 2 and up.dim() == 2 and len(down) == up.shape[1] == rank:
        return []
    return [f"{module} has {list(down.shape)} and {list(up.shape)}, not [{rank}, in] and [out, {rank}]"]

"""Copies a checkpoint into a model, tensor by tensor, and proves that both are covered.

A tensor is read, laid out as ours, cast and copied before the next is read: beside the model itself there is
never more than one of them in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from models.errors import WeightsMismatch
from models.families.naming import Family, Layout, Source, Stored
from models.weights.checkpoint import Checkpoint

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def materialize(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give storage to a module that was built on the meta device. What is in it is undefined until filled."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            storage = torch.empty(parameter.shape, device=device, dtype=dtype)
            setattr(part, name, nn.Parameter(storage, requires_grad=False))
    module.to(device)  # buffers: they were never on the meta device, and keep their dtype


def provides(checkpoint: Checkpoint, family: Family, name: str) -> bool:
    """Whether the checkpoint has what our tensor `name` is made of, or a part of it."""
    known = _known_names(checkpoint, family)
    return any(source.name in known for source in _sources(name, family))


def fill(
    module: nn.Module, checkpoint: Checkpoint, family: Family, *, head_dim: int, tied: str | None = None
) -> None:
    """Copy the checkpoint into the module's parameters, in place and cast to their dtype.

    `tied` is a tensor that the checkpoint may have, but only as a copy of the word embeddings. Raises
    WeightsMismatch listing every tensor that is missing, left over or of another shape.
    """
    known = _known_names(checkpoint, family)
    used = {tied} if tied in known else set()
    missing, misshapen = list[str](), list[str]()
    for name, target in module.named_parameters():
        sources = _sources(name.removeprefix("encoder."), family)
        used.update(source.name for source in sources)
        absent = [source.name for source in sources if source.name not in known]
        missing += absent
        if not absent:
            tensors = (_read(checkpoint, known[source.name], source.layout, head_dim) for source in sources)
            misshapen += _copy_rows(name, target.detach(), tensors)
    left_over = [name for spelling, name in known.items() if spelling not in used]
    if missing or left_over or misshapen:
        raise WeightsMismatch(checkpoint.path, missing=missing, left_over=left_over, misshapen=misshapen)
    if tied in known:
        _check_tied(checkpoint, known[tied], known[_sources("words.weight", family)[0].name])


def _check_tied(checkpoint: Checkpoint, head: str, words: str) -> None:
    """A fine-tune whose head went its own way would load, and talk nonsense."""
    if not torch.equal(checkpoint.tensor(head), checkpoint.tensor(words)):
        reason = f"{head} differs from {words}, but the configuration ties them"
        raise WeightsMismatch(checkpoint.path, misshapen=[reason])


def _known_names(checkpoint: Checkpoint, family: Family) -> dict[str, str]:
    """The family's spelling of every tensor that may be ours -> the checkpoint's own spelling."""
    spelled = {_spell(name, family): name for name in checkpoint.names()}
    return {
        spelling: name
        for spelling, name in spelled.items()
        if not any(fnmatchcase(spelling, pattern) for pattern in family.ignored)
    }


def _sources(name: str, family: Family) -> Sequence[Stored]:
    """Where our tensor `name` comes from: what is stacked in it, in order."""
    numbers = _NUMBER.findall(name)
    pattern = _NUMBER.sub("{}", name)
    if pattern in family.names:
        return [_source(source, "", numbers) for source in _listed(family.names[pattern])]
    module, _, suffix = pattern.rpartition(".")
    if module not in family.names:
        raise LookupError(f"the family does not say where {name} comes from")  # a bug of the family's table
    return [_source(source, f".{suffix}", numbers) for source in _listed(family.names[module])]


def _listed(source: Source) -> Sequence[str | Stored]:
    return source if isinstance(source, tuple) else (source,)


def _source(source: str | Stored, suffix: str, numbers: Sequence[str]) -> Stored:
    stored = source if isinstance(source, Stored) else Stored(source, Layout.OUT_IN)
    return Stored(stored.name.format(*numbers) + suffix, stored.layout)


def _spell(name: str, family: Family) -> str:
    """Without the prefix that only some checkpoints have, and with today's suffix."""
    name = name.removeprefix(family.prefix)
    for old, new in family.suffixes.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _read(checkpoint: Checkpoint, name: str, layout: Layout, head_dim: int) -> Tensor:
    tensor = checkpoint.tensor(name)
    if layout is Layout.IN_OUT and tensor.dim() == 2:
        return tensor.t()
    if layout is Layout.ROTARY_PAIRS:
        return _unpair(tensor, head_dim)
    return tensor


def _unpair(tensor: Tensor, head_dim: int) -> Tensor:
    """Rows of each head from (x0, y0, x1, y1, …) to (x0, x1, …, y0, y1, …)."""
    heads = tensor.view(-1, head_dim // 2, 2, *tensor.shape[1:])
    return heads.transpose(1, 2).reshape(tensor.shape)


def _copy_rows(name: str, target: Tensor, tensors: Iterator[Tensor]) -> list[str]:
    """Stack tensors into `target`. Returns what is wrong with their shapes, as sentences."""
    row = 0
    for tensor in tensors:
        place = target[row : row + len(tensor)]
        if place.shape != tensor.shape:
            return [f"{name} is {list(target.shape)}; {list(tensor.shape)} does not fit at row {row}"]
        place.copy_(tensor)
        row += len(tensor)
    return [] if row == len(target) else [f"{name} needs {len(target)} rows, the checkpoint has {row}"]

"""Copies a checkpoint into a model, tensor by tensor, and proves that both are covered.

A tensor is read, laid out as ours, cast and copied before the next is read: beside the model itself there is
never more than one of them in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from models.errors import WeightsMismatch
from models.families.naming import Either, Family, Layout, Source, Stored
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layouts import HeadShape, lay_out
from models.weights.blocks import Blocks
from models.weights.checkpoint import Checkpoint

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tied:
    """Tensors of a checkpoint that it may have, but only as `copies` of our table of `words`."""

    copies: Collection[str]
    words: str = "embeddings.words.weight"


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
    return any(source.name in known for source in _sources(name, family, known))


def alike(checkpoint: Checkpoint, family: Family, name: str, other: str) -> bool:
    """Whether the checkpoint has the same numbers for two of our tensors."""
    known = _known_names(checkpoint, family)
    first, second = (
        [known.get(source.name) for source in _sources(each, family, known)] for each in (name, other)
    )
    return len(first) == len(second) and all(map(partial(_equal, checkpoint), first, second))


def fill(
    module: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    shape: HeadShape,
    *,
    tied: Tied | None = None,
    body: str = "encoder.",
    keep: bool = False,
) -> dict[nn.Module, Blocks]:
    """Copy the checkpoint into the module's parameters, in place and cast to their dtype.

    `body` is what stands before some of our names and not in the family's: there is a head around them.
    With `keep`, matrices that the checkpoint has in blocks of one kind are returned so, and not filled in.
    Raises WeightsMismatch listing every tensor that is missing, left over or of another shape.
    """
    known = _known_names(checkpoint, family)
    used = known.keys() & set(tied.copies if tied else ())
    missing, misshapen = list[str](), list[str]()
    kept = dict[nn.Module, Blocks]()
    for name, target in module.named_parameters():
        sources = _sources(name.removeprefix(body), family, known)
        used.update(source.name for source in sources)
        absent = [source.name for source in sources if source.name not in known]
        missing += absent
        layer = _layer_of(module, name) if keep and not absent else None
        blocks = None if layer is None else _stack_blocks(checkpoint, sources, known, shape)
        if layer is not None and blocks is not None and blocks.shape == target.shape:
            kept[layer] = blocks
        elif not absent:
            tensors = (
                _read(checkpoint, known[source.name], source.layout, shape, target.dtype)
                for source in sources
            )
            misshapen += _copy_rows(name, target.detach(), tensors)
    left_over = [
        name for spelling, name in known.items() if spelling not in used and not _is_ignored(spelling, family)
    ]
    if missing or left_over or misshapen:
        raise WeightsMismatch(checkpoint.path, missing=missing, left_over=left_over, misshapen=misshapen)
    if tied is not None:
        _check_tied(checkpoint, family, known, tied)
    return kept


def _layer_of(module: nn.Module, name: str) -> nn.Module | None:
    """The layer whose matrix a parameter is; None where it is none that can be kept in blocks."""
    path, _, parameter = name.rpartition(".")
    layer = module.get_submodule(path)
    return layer if parameter == "weight" and type(layer) in (Linear, Embedding) else None


def _stack_blocks(
    checkpoint: Checkpoint, sources: Sequence[Stored], known: Mapping[str, str], shape: HeadShape
) -> Blocks | None:
    """The rows of all `sources`, laid out as ours; None where they are not blocks of one kind.

    Whatever is wrong with them is left to those who read them as numbers.
    """
    found = [checkpoint.blocks(known[source.name]) for source in sources]
    kinds = {blocks.kind for blocks in found if blocks is not None}
    if None in found or len(kinds) != 1 or any(source.layout is Layout.IN_OUT for source in sources):
        return None
    try:
        parts = [
            lay_out(blocks.raw, source.layout, shape)
            for blocks, source in zip(found, sources, strict=True)
            if blocks is not None
        ]
    except ValueError:
        return None
    return Blocks(kind=kinds.pop(), raw=parts[0] if len(parts) == 1 else torch.cat(parts))


def _read(
    checkpoint: Checkpoint, name: str, layout: Layout, shape: HeadShape, quantised: torch.dtype
) -> Tensor:
    """ValueError naming a tensor that is not laid out so, or is none of floating-point numbers: integers are
    what quantisation left, and mean nothing without their scales."""
    tensor = checkpoint.tensor(name, quantised)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} holds {tensor.dtype}, not floating-point numbers")
    try:
        return lay_out(tensor, layout, shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_tied(checkpoint: Checkpoint, family: Family, known: Mapping[str, str], tied: Tied) -> None:
    """A fine-tune whose head went its own way would load, and talk nonsense."""
    (words,) = _sources(tied.words, family, known)
    different = [
        f"{known[copy]} differs from {known[words.name]}, but the configuration ties them"
        for copy in tied.copies
        if copy in known and not _equal(checkpoint, known[copy], known[words.name])
    ]
    if different:
        raise WeightsMismatch(checkpoint.path, misshapen=different)


def _equal(checkpoint: Checkpoint, name: str | None, other: str | None) -> bool:
    """Of two names in the checkpoint, if they are there at all."""
    if name is None or other is None:
        return False
    return name == other or torch.equal(checkpoint.tensor(name), checkpoint.tensor(other))


def _known_names(checkpoint: Checkpoint, family: Family) -> dict[str, str]:
    """The family's spelling of every tensor -> the checkpoint's own spelling."""
    return {_spell(name, family): name for name in checkpoint.names()}


def _is_ignored(spelling: str, family: Family) -> bool:
    """Whether what nobody takes may be left over."""
    return any(fnmatchcase(spelling, pattern) for pattern in family.ignored)


def _sources(name: str, family: Family, known: Collection[str]) -> Sequence[Stored]:
    """Where our tensor `name` comes from: what is stacked in it, in order."""
    numbers = _NUMBER.findall(name)
    pattern = _NUMBER.sub("{}", name)
    source, suffix = family.names.get(pattern), ""
    if source is None:
        module, _, parameter = pattern.rpartition(".")
        source, suffix = family.names.get(module), f".{parameter}"
    if source is None:
        raise LookupError(f"the family does not say where {name} comes from")  # a bug of the family's table
    return _resolve(source, suffix, numbers, known)


def _resolve(source: Source, suffix: str, numbers: Sequence[str], known: Collection[str]) -> Sequence[Stored]:
    match source:
        case Either(sources=sources):
            choices = [_resolve(one, suffix, numbers, known) for one in sources]
            there = (choice for choice in choices if all(one.name in known for one in choice))
            return next(there, choices[0])
        case tuple():
            return [stored for one in source for stored in _resolve(one, suffix, numbers, known)]
        case Stored(layout=Layout.ROWS):
            return _rows(source.name.format(*numbers) + suffix, known)
        case Stored():
            return [Stored(source.name.format(*numbers) + suffix, source.layout)]
        case str():
            return [Stored(source.format(*numbers) + suffix, Layout.OUT_IN)]


def _rows(pattern: str, known: Collection[str]) -> Sequence[Stored]:
    """A source for each number that `*` stands for, from 0 on; at least that of 0."""
    count = max(sum(fnmatchcase(name, pattern) for name in known), 1)
    return [Stored(pattern.replace("*", str(row)), Layout.ROWS) for row in range(count)]


def _spell(name: str, family: Family) -> str:
    """Without the prefix that only some checkpoints have, and with today's suffix."""
    name = name.removeprefix(family.prefix)
    for old, new in family.suffixes.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _copy_rows(name: str, target: Tensor, tensors: Iterator[Tensor]) -> list[str]:
    """Stack tensors into `target`. Returns what is wrong with them, as sentences."""
    row = 0
    try:
        for tensor in tensors:
            place = target[row : row + math.prod(tensor.shape[:1])]
            if place.shape != tensor.shape:
                return [f"{name} is {list(target.shape)}; {list(tensor.shape)} does not fit at row {row}"]
            place.copy_(tensor)
            row += len(tensor)
    except ValueError as error:  # the tensor could not be read
        return [str(error)]
    return [] if row == len(target) else [f"{name} needs {len(target)} rows, the checkpoint has {row}"]

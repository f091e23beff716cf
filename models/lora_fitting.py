"""Which layer of ours each module of an adapter belongs to.

An adapter calls its modules as a checkpoint of the family does, so `Family.names` says where they are.
Several may be stacked in one layer of ours (queries, keys, values; gate and up), and any of these may be
changed: the layer's change is theirs, its rank the sum of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import DecoderConfig, EncoderConfig, HeadTask
from models.errors import UnsupportedModel, WeightsMismatch
from models.families.naming import Either, Family, Layout, Source, Stored
from models.families.registry import FAMILIES
from models.layers.linear import Linear
from models.layouts import HeadShape, lay_out
from models.lora_folder import DOWN, UP, Change, Lora, tensor_name
from models.positions import Disentangled

HEAD = "head.linear"  # of a decoder
TRANSFORM = "head.transform"  # of an encoder that fills masks

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a checkpoint's module lies: `rows` of our layer at `path`, from `start` on."""

    path: str
    start: int
    rows: int
    columns: int
    layout: Layout
    spelling: int  # which of several ways to call the layer's modules this name is of


def fit(lora: Lora, config: DecoderConfig | EncoderConfig, layers: Mapping[str, Linear]) -> dict[str, Change]:
    """The changes of our `layers`, by their paths: of those that the adapter changes.

    Raises WeightsMismatch and UnsupportedModel as `models.lora.attach` does.
    """
    family = _family(config)
    shape = HeadShape.of(config)
    places = _places(family, shape, layers)
    found = _found(lora, family, places)
    _check(lora, family, places, found)
    _check_distances(lora, config, found)
    by_path = dict[str, list[tuple[Place, Change]]]()
    for name, place in found.items():
        by_path.setdefault(place.path, []).append((place, lora.changes[name]))
    return {path: _stack(parts, layers[path], shape) for path, parts in by_path.items()}


def _family(config: DecoderConfig | EncoderConfig) -> Family:
    """That of its Hugging Face folders, also where the weights came from a GGUF file."""
    if config.architecture not in FAMILIES:
        raise UnsupportedModel(f"adapters are not supported for {config.architecture}")
    family = FAMILIES[config.architecture]
    return replace(family, names={**family.names, **family.heads.get(HeadTask.MASKED_LM, {})})


def _places(family: Family, shape: HeadShape, layers: Mapping[str, Linear]) -> dict[str, Place]:
    """By the family's spelling of a module's name."""
    places = dict[str, Place]()
    for path, layer in layers.items():
        for spelling, stack in enumerate(_stacks(path, family)):
            start = 0
            for stored, rows in zip(stack, _rows(layer, len(stack), shape), strict=True):
                places[stored.name] = Place(
                    path=path,
                    start=start,
                    rows=rows,
                    columns=layer.in_features,
                    layout=stored.layout,
                    spelling=spelling,
                )
                start += rows
    return places


def _stacks(path: str, family: Family) -> Iterator[Sequence[Stored]]:
    """The checkpoint's modules that our layer is made of, in order, in each of their spellings."""
    pattern, numbers = _NUMBER.sub("{}", path), _NUMBER.findall(path)
    source = family.names.get(pattern) or family.names.get(f"{pattern}.weight")
    for stack in () if source is None else _spellings(source):
        yield [Stored(one.name.format(*numbers).removesuffix(".weight"), one.layout) for one in stack]


def _spellings(source: Source) -> Iterator[Sequence[Stored]]:
    match source:
        case Either(sources=sources):
            for one in sources:
                yield from _spellings(one)
        case tuple():
            yield [Stored(one, Layout.OUT_IN) if isinstance(one, str) else one for one in source]
        case str():
            yield [Stored(source, Layout.OUT_IN)]
        case Stored():
            yield [source]


def _rows(layer: Linear, parts: int, shape: HeadShape) -> Sequence[int]:
    """How many rows of a layer each of its parts has: query, key and value, or parts of one size."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if parts == 3 and query + 2 * key == layer.out_features:
        return query, key, key
    size, left_over = divmod(layer.out_features, parts)
    assert not left_over, f"{layer.out_features} rows are not {parts} parts of one size"
    return [size] * parts


def _found(lora: Lora, family: Family, places: Mapping[str, Place]) -> dict[str, Place]:
    """By the adapter's own names, none there twice; without what the model ignores of a checkpoint, too."""
    found, left_over, ignored = dict[str, Place](), list[str](), list[str]()
    for name in lora.changes:
        spelled = name.removeprefix(family.prefix)
        place = places.get(spelled)
        if place is not None and place not in found.values() and _included(lora, name, place):
            found[name] = place
        elif any(fnmatchcase(f"{spelled}.weight", pattern) for pattern in family.ignored):
            ignored.append(name)
        else:
            left_over.append(name)
    if left_over or not found:
        names = left_over or ignored
        tensors = [tensor_name(name, side) for name in names for side in (DOWN, UP)]
        raise WeightsMismatch(lora.path, left_over=tensors)
    return found


def _included(lora: Lora, name: str, place: Place) -> bool:
    return lora.targets.include(name, head=place.path == HEAD)


def _check(lora: Lora, family: Family, places: Mapping[str, Place], found: Mapping[str, Place]) -> None:
    """Raises WeightsMismatch where something is missing or misshapen."""
    missing = [
        tensor_name(name, side) for name in _missing(lora, family, places, found) for side in (DOWN, UP)
    ]
    misshapen = [
        f"{name} changes [{len(change.up)}, {change.down.shape[1]}], not [{place.rows}, {place.columns}]"
        for name, place in found.items()
        for change in [lora.changes[name]]
        if (len(change.up), change.down.shape[1]) != (place.rows, place.columns)
    ]
    if missing or misshapen:
        raise WeightsMismatch(lora.path, missing=missing, misshapen=misshapen)


def _missing(
    lora: Lora, family: Family, places: Mapping[str, Place], found: Mapping[str, Place]
) -> Iterator[str]:
    """What the adapter says that it changes, and does not; in the spelling that it has for a layer.

    It may have been trained on the model without a head for masks.
    """
    prefix = family.prefix if any(name.startswith(family.prefix) for name in found) else ""
    spellings = {place.path: place.spelling for place in found.values()}
    for spelled, place in places.items():
        name = prefix + spelled
        spelling = spellings.get(place.path, 0)
        expected = place.spelling == spelling and place.path != TRANSFORM
        if expected and name not in found and _included(lora, name, place):
            yield name


def _check_distances(lora: Lora, config: DecoderConfig | EncoderConfig, found: Mapping[str, Place]) -> None:
    """DeBERTa projects distances, which belong to no text, by the layers that project the texts' queries and
    keys: what an adapter changed there would have to be computed for each text apart."""
    kind = config.relative if isinstance(config, EncoderConfig) else None
    if not isinstance(kind, Disentangled):
        return
    refused = [
        name for name, place in found.items() if ".distance_" in place.path or (kind.shared and _asks(place))
    ]
    if refused:
        raise UnsupportedModel(f"{lora.path} changes what projects distances, too: {', '.join(refused)}")


def _asks(place: Place) -> bool:
    """Whether it makes queries or keys, the first two thirds of a layer's rows."""
    return place.path.endswith(".attention.qkv") and place.start < 2 * place.rows


def _stack(parts: Sequence[tuple[Place, Change]], layer: Linear, shape: HeadShape) -> Change:
    """The changes of a layer's parts as one: each writes only its own rows."""
    downs, ups = list[Tensor](), list[Tensor]()
    for place, change in parts:
        below = layer.out_features - place.start - place.rows
        downs.append(change.down)
        ups.append(F.pad(_lay_out(change.up, place.layout, shape), (0, 0, place.start, below)))
    return Change(torch.cat(downs), torch.cat(ups, dim=1))


def _lay_out(up: Tensor, layout: Layout, shape: HeadShape) -> Tensor:
    """Rows in our order. PEFT stores [out, r] for GPT-2's layers, too, whose weights are [in, out]."""
    return up if layout is Layout.IN_OUT else lay_out(up, layout, shape)

"""Puts adapters into a loaded model, and takes them out again."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from models.layers.linear import Linear
from models.layers.lora import LowRank
from models.loading import LoadedDecoder, LoadedEncoder
from models.lora_fitting import HEAD, TRANSFORM, fit
from models.lora_folder import Lora


def attach(model: LoadedDecoder | LoadedEncoder, lora: Lora, name: str) -> None:
    """From now on rows that run with `name` are changed by the adapter; no others are.

    All of it, or nothing. Raises ValueError where the name is taken, WeightsMismatch listing the adapter's
    tensors that belong to no linear layer here, are missing or of another shape, and UnsupportedModel where
    it changes what is not computed row by row.
    """
    layers = list(_layers(model))
    if any(name in layer.changes for _, layer in layers):
        raise ValueError(f"there is an adapter {name!r} already")
    changes = fit(lora, model.config, dict(layers))
    built = [
        (layer, LowRank(changes[path].down, changes[path].up, beside=layer))
        for path, layer in layers
        if path in changes
    ]
    for layer, change in built:
        layer.changes[name] = change


def detach(model: LoadedDecoder | LoadedEncoder, name: str) -> None:
    """Forget an adapter; nothing where there is none of that name."""
    for _, layer in _layers(model):
        layer.changes.pop(name, None)


def _layers(model: LoadedDecoder | LoadedEncoder) -> Iterator[tuple[str, Linear]]:
    """The layers that are told which rows run with which adapter, by their paths."""
    for stack in _stacks(model):
        for path, layer in stack.named_modules():
            if isinstance(layer, Linear) and (path == HEAD or path.startswith("blocks.")):
                yield path, layer
    transform = (
        model.masked_lm.head.transform if isinstance(model, LoadedEncoder) and model.masked_lm else None
    )
    if transform is not None:
        yield TRANSFORM, transform


def _stacks(model: LoadedDecoder | LoadedEncoder) -> list[nn.Module]:
    """A masked-LM head may stand on an encoder of its own, with the same paths."""
    if isinstance(model, LoadedDecoder):
        return [model.decoder]
    if model.masked_lm is None or model.masked_lm.encoder is model.encoder:
        return [model.encoder]
    return [model.encoder, model.masked_lm.encoder]

"""Low-rank adapters of the models in this process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import ModelError, UnsupportedModel
from models.loading import LoadedDecoder, LoadedEncoder
from models.lora import attach, detach
from models.lora_folder import read_lora
from models.weights.fingerprint import combine
from server.errors import InvalidRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Base:
    """A model that takes adapters, and what callers see as its fingerprint."""

    weights: LoadedDecoder | LoadedEncoder
    fingerprint: str


class LoadedAdapters:
    """By the models' names. What is not in `bases` takes none."""

    def __init__(self, bases: Mapping[str, Base]) -> None:
        self._bases = bases

    def load(self, model: str, name: str, path: str) -> str:
        """Put the adapter in the folder `path` into a model. Returns the fingerprint of the model with it.

        Raises ModelError.
        """
        if model not in self._bases:
            raise UnsupportedModel(f"{model} takes no adapters: they are for decoders and encoders")
        base = self._bases[model]
        lora = read_lora(Path(path))
        attach(base.weights, lora, name)
        logger.info("%s has the adapter %s, which says that it is for %s", model, name, lora.base)
        return combine(base.fingerprint, lora.fingerprint)

    def attach(self, model: str, name: str, path: str) -> str:
        """As `load`, for a server that is running. Raises InvalidRequest."""
        at_fault = "lora_path" if model in self._bases else "model"
        try:
            return self.load(model, name, path)
        except ModelError as error:
            message = str(error).replace(path, "the adapter")  # where it lies is nobody's business
            raise InvalidRequest(message, parameter=at_fault) from error

    def detach(self, model: str, name: str) -> None:
        if model in self._bases:
            detach(self._bases[model].weights, name)

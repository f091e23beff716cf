"""Adapters in the engine process: put into a loaded model between two steps, and taken out again."""

from __future__ import annotations

import logging
from typing import Protocol

from server.engine.messages import Attach, Attached, Failed, Refused
from server.errors import InvalidRequest

logger = logging.getLogger(__name__)


class Adapters(Protocol):
    """The loaded models, as far as they take adapters; really `execution.adapters.LoadedAdapters`."""

    def attach(self, model: str, name: str, path: str) -> str:
        """Put the adapter in the folder `path` into a model. Returns the fingerprint of the model with it.

        Raises InvalidRequest saying why it cannot be.
        """

    def detach(self, model: str, name: str) -> None:
        """Forget it; nothing where there is none of that name."""


def attach(adapters: Adapters, command: Attach) -> Attached | Refused | Failed:
    """Do so, and say how it went: a broken adapter must not end the engine."""
    try:
        return Attached(command.id, adapters.attach(command.model, command.lora, command.path))
    except InvalidRequest as error:
        return Refused(command.id, str(error), parameter=error.parameter)
    except Exception as error:
        logger.exception("an adapter of %s could not be loaded", command.model)
        return Failed([command.id], f"{type(error).__name__} while loading an adapter")

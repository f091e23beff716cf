"""Adapters as the HTTP process sees them: loaded and unloaded while the server runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from server.engine.catalogue import Catalogue, Served
from server.engine.link import Link, Lost
from server.engine.messages import Attach, Attached, Detach, Refused
from server.errors import EngineFailed, InvalidRequest
from server.request import ModelCard


class Loras:
    """What is unloaded goes when the last request that runs with it has ended."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._under_way = Counter[str]()
        self._leaving = set[str]()
        self._loading = asyncio.Lock()

    async def load(self, models: Catalogue, name: str, path: str, model: str | None) -> ModelCard:
        """Returns the card of the model with the adapter.

        Raises ModelNotFound, and InvalidRequest where the name is taken or the folder holds no such adapter.
        """
        async with self._loading:
            base = models.adaptable(model)
            models.check_free(name)
            id_ = self._link.new_id()
            lora = f"{name}@{id_}"  # one that is still leaving may have had the same name
            fingerprint = await self._attach(Attach(id_, base.name, lora, path))
            return models.add(name, base.name, lora=lora, fingerprint=fingerprint)

    def unload(self, models: Catalogue, name: str) -> None:
        """Raises ModelNotFound."""
        removed = models.remove(name)
        assert removed.lora is not None
        self._leaving.add(removed.lora)
        self._let_go(removed.name, removed.lora)

    @contextmanager
    def used_by(self, model: Served) -> Iterator[None]:
        """For as long as a request is under way, so is its adapter, if it has one."""
        if model.lora is None:
            yield
            return
        self._under_way[model.lora] += 1
        try:
            yield
        finally:
            self._under_way[model.lora] -= 1
            self._let_go(model.name, model.lora)

    def _let_go(self, model: str, lora: str) -> None:
        if lora in self._leaving and not self._under_way[lora]:
            self._leaving.discard(lora)
            del self._under_way[lora]
            self._link.tell(Detach(model, lora))

    async def _attach(self, command: Attach) -> str:
        """The fingerprint of the model with the adapter; if nobody waits for it any more, it goes again."""
        attached = None
        try:
            with self._link.asked(command) as answers:
                attached = await answers.get()
        finally:
            if not isinstance(attached, Attached):
                self._link.tell(Detach(command.model, command.lora))
        if isinstance(attached, Refused):
            raise InvalidRequest(attached.reason, parameter=attached.parameter)
        if isinstance(attached, Lost):
            raise EngineFailed(attached.reason)
        assert isinstance(attached, Attached), f"asked for an adapter, got {attached}"
        return attached.fingerprint

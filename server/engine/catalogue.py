"""Which models are loaded, with which adapters, and which of them a request means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from server.errors import InvalidRequest, ModelNotFound, TaskUnavailable
from server.request import ModelCard, Task
from server.text.generation_defaults import GenerationDefaults
from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A loaded model, what turns text into its tokens, and how its folder would have it generate.

    `lora`: the adapter that it is to run with, as the engine process knows it; the card is then of the two.
    """

    card: ModelCard
    tokenizer: Tokenizer
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    lora: str | None = None

    @property
    def name(self) -> str:
        """Of the model itself, whatever the adapter."""
        return self.card.parent or self.card.name

    @property
    def max_tokens(self) -> int:
        return self.card.max_tokens


class Catalogue:
    """The loaded models, in the order of the command line: the first of a kind is its default.

    An adapter's name means its model with it, wherever the name of a model is asked for.
    """

    def __init__(self, models: Sequence[Served]) -> None:
        self._models = {model.name: model for model in models}
        self._adapted = dict[str, Served]()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return tuple(model.card for model in self._models.values())

    def __iter__(self) -> Iterator[Served]:
        return iter(self._models.values())

    def named(self, name: str | None, lora: str | None = None) -> Served:
        """The model of that name, or the first; with the adapter `lora`, if named. Raises ModelNotFound."""
        if lora is not None:
            return self._with(lora, name)
        if name is None:
            return next(iter(self._models.values()))
        known = self._models | self._adapted
        if name not in known:
            raise ModelNotFound(known)
        return known[name]

    def select(self, task: Task, name: str | None, lora: str | None = None) -> Served:
        """The model of that name, or the first that can do the task; with the adapter `lora`, if named.

        Raises ModelNotFound, TaskUnavailable, or InvalidRequest where the named one cannot do it.
        """
        able = [model.name for model in self._models.values() if task in model.card.tasks]
        if name is None and lora is None:
            if not able:
                raise TaskUnavailable(task.value, self._models)
            return self._models[able[0]]
        model = self.named(name, lora)
        if model.name not in able:
            raise InvalidRequest(
                f"the model named in `model` cannot do {task.value}; these can: {', '.join(able) or 'none'}",
                parameter="model",
            )
        return model

    def add(self, adapter: str, model: str, *, lora: str, fingerprint: str) -> ModelCard:
        """A loaded model can be asked for with this adapter from now on. Returns the card of the two."""
        base = self._models[model]
        card = replace(base.card, name=adapter, parent=model, fingerprint=fingerprint, adapters=())
        self._adapted[adapter] = replace(base, card=card, lora=lora)
        self._tell_adapters(model)
        return card

    def remove(self, adapter: str) -> Served:
        """Requests will not find it any more. Raises ModelNotFound."""
        if adapter not in self._adapted:
            raise ModelNotFound(self._adapted, parameter="lora_name")
        removed = self._adapted.pop(adapter)
        self._tell_adapters(removed.name)
        return removed

    def adaptable(self, model: str | None) -> Served:
        """The model that an adapter is for, by its name; it may be left out where there is but one.

        Raises ModelNotFound, or InvalidRequest where several are loaded.
        """
        if model is None and len(self._models) > 1:
            names = ", ".join(self._models)
            raise InvalidRequest(
                f"`model` must say which model the adapter is for: {names}", parameter="model"
            )
        if model is not None and model not in self._models:
            raise ModelNotFound(self._models)
        return self._models[model] if model is not None else self.named(None)

    def check_free(self, adapter: str) -> None:
        """Raises InvalidRequest where a model or an adapter has that name."""
        if adapter in self._models or adapter in self._adapted:
            raise InvalidRequest("`lora_name` is taken: unload that adapter first", parameter="lora_name")

    def _with(self, lora: str, model: str | None) -> Served:
        adapted = self._adapted.get(lora)
        if adapted is None or model not in (None, lora, adapted.name):
            raise ModelNotFound(self._adapted, parameter="lora")
        return adapted

    def _tell_adapters(self, model: str) -> None:
        base = self._models[model]
        names = tuple(name for name, one in self._adapted.items() if one.name == model)
        self._models[model] = replace(base, card=replace(base.card, adapters=names))

"""Which models are loaded, and which of them a request means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from server.errors import InvalidRequest, ModelNotFound, TaskUnavailable
from server.request import ModelCard, Task
from server.text.generation_defaults import GenerationDefaults
from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A loaded model, what turns text into its tokens, and how its folder would have it generate."""

    card: ModelCard
    tokenizer: Tokenizer
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def max_tokens(self) -> int:
        return self.card.max_tokens


class Catalogue:
    """The loaded models, in the order of the command line: the first of a kind is its default."""

    def __init__(self, models: Sequence[Served]) -> None:
        self._models = {model.name: model for model in models}

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return tuple(model.card for model in self._models.values())

    def __iter__(self) -> Iterator[Served]:
        return iter(self._models.values())

    def named(self, name: str | None) -> Served:
        """The model of that name, or the first. Raises ModelNotFound."""
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise ModelNotFound(self._models)
        return self._models[name]

    def select(self, task: Task, name: str | None) -> Served:
        """The model of that name, or the first that can do the task.

        Raises ModelNotFound, TaskUnavailable, or InvalidRequest where the named one cannot do it.
        """
        able = [model.name for model in self._models.values() if task in model.card.tasks]
        if name is None:
            if not able:
                raise TaskUnavailable(task.value, self._models)
            return self._models[able[0]]
        model = self.named(name)
        if model.name not in able:
            raise InvalidRequest(
                f"the model named in `model` cannot do {task.value}; these can: {', '.join(able) or 'none'}",
                parameter="model",
            )
        return model

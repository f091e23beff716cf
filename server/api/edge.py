"""What every route is given: the engine, the limits, and how often a silent stream says that it lives."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import msgspec
from fastapi import Depends, Request
from starlette.responses import Response

from server.api.limits import Limits
from server.engine.stats import Stats
from server.errors import EngineFailed, ModelNotFound, NotReady
from server.request import (
    Chunk,
    Embedding,
    EmbedRequest,
    FillMaskRequest,
    Finish,
    GenerateRequest,
    MaskCandidate,
    ModelCard,
    Task,
    Token,
)
from server.text.generation_defaults import GenerationDefaults

PLACEHOLDERS = frozenset({"dummy", "tgi", "default"})
"""What clients write into `model` when they mean: whatever is served (`InferenceClient`, TGI's docs)."""


class TokenSpan(Protocol):
    """A token and the characters of the text that it covers; one that was put around the text covers none."""

    @property
    def id(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def special(self) -> bool: ...


class Engine(Protocol):
    """What the edge asks of the engine. The real one is `engine.Engine`; tests bring their own.

    Every method raises a `ServerError`. Closing the iterator of `generate` aborts the request.
    """

    @property
    def cards(self) -> tuple[ModelCard, ...]: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def alive(self) -> bool: ...
    def select(self, task: Task, name: str | None) -> ModelCard: ...
    def generation_defaults(self, model: str) -> GenerationDefaults: ...
    def languages(self, model: str) -> tuple[str, ...]: ...
    def needs_target_language(self, model: str) -> bool: ...
    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]: ...
    async def fill_mask(self, request: FillMaskRequest) -> list[list[MaskCandidate]]: ...
    async def embed(self, request: EmbedRequest) -> Embedding: ...
    async def tokenize(
        self, text: str, *, model: str | None, add_special_tokens: bool = True
    ) -> Sequence[TokenSpan]: ...
    async def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        model: str | None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str: ...
    async def load_adapter(self, name: str, path: str, *, model: str | None = None) -> ModelCard: ...
    def unload_adapter(self, name: str) -> None: ...
    async def check_ready(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished generation. `prompt` holds the prompt's tokens if they were to be scored."""

    tokens: tuple[Token, ...]
    finish: Finish
    prompt: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    engine: Engine
    limits: Limits
    heartbeat_s: float
    version: str
    lora_folder: Path | None = None  # from which adapters may be loaded; None: they may not
    started: int = field(default_factory=lambda: int(time.time()))  # unix seconds

    def select(self, task: Task, name: str | None, *, adapter: str | None = None) -> ModelCard:
        """The model called `name`, or the default of its kind; with an adapter, if one is named.

        An adapter's name may be given as `name`, too. Raises ModelNotFound, TaskUnavailable.
        """
        if adapter is not None:
            return self._select_adapter(task, adapter, self._meant(name))
        return self.engine.select(task, self._meant(name))

    def select_any(self, name: str | None) -> ModelCard:
        """As `select`, whatever the model is for."""
        wanted = self._meant(name)
        for card in self.cards:
            if wanted in (None, card.name):
                return card
            if wanted in card.adapters:
                return self.engine.select(min(card.tasks, key=lambda task: task.value), wanted)
        raise ModelNotFound(self._names)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Of every loaded model: never empty. Raises NotReady while they load."""
        if not self.engine.cards:
            raise NotReady("the models are still loading")
        return self.engine.cards

    def _select_adapter(self, task: Task, adapter: str, model: str | None) -> ModelCard:
        """Raises ModelNotFound where `model` is given, and the adapter is of another."""
        for card in self.cards:
            if adapter in card.adapters and model in (None, card.name, adapter):
                return self.engine.select(task, adapter)
        adapters = (name for card in self.cards for name in card.adapters)
        raise ModelNotFound(adapters, parameter="adapter_id")

    def _meant(self, name: str | None) -> str | None:
        return None if name in PLACEHOLDERS.difference(self._names) else name

    @property
    def _names(self) -> list[str]:
        """Of models and adapters."""
        return [name for card in self.engine.cards for name in (card.name, *card.adapters)]

    async def complete(self, request: GenerateRequest) -> Answer:
        """Generate to the end. Cancelling this aborts the request."""
        tokens, prompt = list[Token](), list[Token]()
        async with aclosing(self.engine.generate(request)) as chunks:
            async for chunk in chunks:
                tokens += chunk.tokens
                prompt += chunk.prompt
                if chunk.finish is not None:
                    return Answer(tokens=tuple(tokens), finish=chunk.finish, prompt=tuple(prompt))
        raise EngineFailed("the stream ended without a finish")


def _edge(request: Request) -> Edge:
    return cast(Edge, request.app.state.edge)


EdgeOf = Annotated[Edge, Depends(_edge)]


def json_response(payload: object, headers: Mapping[str, str] | None = None) -> Response:
    """`payload` is anything that msgspec encodes: dicts, lists, dataclasses, numbers."""
    return Response(msgspec.json.encode(payload), media_type="application/json", headers=headers)


def characters(texts: Sequence[str | list[int]]) -> int:
    """For `x-compute-characters`; token ids have none."""
    return sum(len(text) for text in texts if isinstance(text, str))


def example(payload: object, description: str = "Done") -> dict[int | str, dict[str, Any]]:
    """What a route answers, for `/docs`."""
    return {200: {"description": description, "content": {"application/json": {"example": payload}}}}


def stream_example(events: str, payload: object) -> dict[int | str, dict[str, Any]]:
    """As `example`, for a route that answers with one JSON document or with a stream of events."""
    content = {"application/json": {"example": payload}, "text/event-stream": {"example": events}}
    return {200: {"description": "One document, or the stream if asked for", "content": content}}

"""Stand-ins for the parts that need a device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.engine.stats import ModelStats, Stats
from server.errors import (
    ContextTooLong,
    InvalidRequest,
    ModelNotFound,
    NoMask,
    ServerError,
    TaskUnavailable,
)
from server.request import (
    Chunk,
    Embedding,
    EmbedRequest,
    FillMaskRequest,
    Finish,
    FinishReason,
    GenerateRequest,
    MaskCandidate,
    ModelCard,
    Task,
    Token,
)

DECODER = ModelCard(
    name="gpt",
    source="somewhere/gpt",
    architecture="gpt2",
    tasks=frozenset({Task.GENERATE}),
    max_tokens=64,
    vocab_size=1000,
    parameters=1000,
    dtype="float32",
    device="cpu",
    fingerprint="fp_decoder",
    batch_invariant=True,
)
ENCODER = ModelCard(
    name="org/bert",
    source="somewhere/bert",
    architecture="bert",
    tasks=frozenset({Task.FILL_MASK, Task.EMBED}),
    max_tokens=32,
    vocab_size=1000,
    parameters=500,
    dtype="float32",
    device="cpu",
    fingerprint="fp_encoder",
    batch_invariant=True,
    embedding_size=2,
    pooling="mean",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    id: int
    text: str
    start: int
    stop: int
    special: bool = False


@dataclass(slots=True, kw_only=True)
class FakeEngine:
    """Says `script`, a token each, to every prompt; the rest behaves as the real engine does.

    `refusal` is raised before any work; `failure` is raised in place of token number `fails_at`.
    `pauses_s` is how long to think before a token, by its number. `running` counts open streams.
    """

    script: Sequence[str] = ("Hel", "lo", "!")
    cards: tuple[ModelCard, ...] = (DECODER, ENCODER)
    refusal: Exception | None = None
    failure: Exception | None = None
    fails_at: int = 0
    pauses_s: Mapping[int, float] = field(default_factory=dict)
    alive: bool = True
    stats: Stats = field(default_factory=Stats)
    running: int = 0
    asked: list[GenerateRequest | FillMaskRequest | EmbedRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        for card in self.cards:
            self.stats.models[card.name] = ModelStats()

    def select(self, task: Task, name: str | None) -> ModelCard:
        able = [card for card in self.cards if task in card.tasks]
        names = [card.name for card in self.cards]
        if name is None and not able:
            raise TaskUnavailable(task.value, names)
        if name is not None and name not in names:
            raise ModelNotFound(names)
        for card in able:
            if name in (None, card.name):
                return card
        raise InvalidRequest(f"the model named in `model` cannot do {task.value}", parameter="model")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self._note(request)
        prompt_tokens = self._fit(request)
        self.running += 1
        try:
            text = ""
            for number, piece in enumerate(self.script):
                await asyncio.sleep(self.pauses_s.get(number, 0))
                if self.failure is not None and number == self.fails_at:
                    raise self.failure
                text += piece
                token = Token(id=number + 10, text=piece, logprob=-0.5)
                finish = self._finish(request, text, number + 1, prompt_tokens)
                yield Chunk(tokens=(token,), finish=finish)
                if finish is not None:
                    return
        finally:
            self.running -= 1

    def _note(self, request: GenerateRequest | FillMaskRequest | EmbedRequest) -> None:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal

    def _fit(self, request: GenerateRequest) -> int:
        prompt = request.prompt
        tokens = len(prompt.split() if isinstance(prompt, str) else prompt)
        limit = self.select(Task.GENERATE, request.model).max_tokens
        if tokens + (request.max_new_tokens or 1) > limit:
            raise ContextTooLong(tokens=tokens, limit=limit, new_tokens=request.max_new_tokens)
        return tokens

    def _finish(self, request: GenerateRequest, text: str, count: int, prompt_tokens: int) -> Finish | None:
        stop = next((stop for stop in request.stop if stop in text), None)
        if stop is not None:
            reason = FinishReason.STOP
        elif count == request.max_new_tokens:
            reason = FinishReason.LENGTH
        elif count == len(self.script):
            reason = FinishReason.EOS
        else:
            return None
        return Finish(
            reason=reason,
            text=text if stop is None else text[: text.index(stop)],
            prompt_tokens=prompt_tokens,
            generated_tokens=count,
            seed=request.sampling.seed,
            stop=stop,
        )

    async def fill_mask(self, request: FillMaskRequest) -> list[list[MaskCandidate]]:
        self._note(request)
        masks = request.text.count("[MASK]")
        if not masks:
            raise NoMask("[MASK]")
        words = request.targets or ("capital", "heart", "centre")
        mask = [
            MaskCandidate(
                score=0.5 / (rank + 1),
                token=rank,
                token_str=word,
                sequence=request.text.replace("[MASK]", word),
            )
            for rank, word in enumerate(words[: request.top_k])
        ]
        return [mask] * masks

    async def embed(self, request: EmbedRequest) -> Embedding:
        self._note(request)
        await asyncio.sleep(self.pauses_s.get(0, 0))
        tokens = len(request.text.split() if isinstance(request.text, str) else request.text)
        return Embedding(vector=(0.5, -0.25), tokens=tokens)

    async def tokenize(
        self, text: str, *, model: str | None, add_special_tokens: bool = True
    ) -> Sequence[Span]:
        spans = [Span(id=1, text="<s>", start=0, stop=0, special=True)] if add_special_tokens else []
        start = 0
        for word in text.split():
            start = text.index(word, start)
            spans.append(Span(id=len(word), text=word, start=start, stop=start + len(word)))
            start += len(word)
        return spans

    async def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        model: str | None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str:
        turns = [f"<{message['role']}> {message['content']}" for message in messages]
        return "\n".join([*turns, "<assistant>"] if add_generation_prompt else turns)

    async def check_ready(self) -> None:
        if isinstance(self.refusal, ServerError):
            raise self.refusal

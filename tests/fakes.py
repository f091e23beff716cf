"""Stand-ins for the parts that need a device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    Alternative,
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
from server.text.generation_defaults import GenerationDefaults

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

TRANSLATOR = replace(
    DECODER,
    name="t5",
    source="somewhere/t5",
    architecture="t5",
    tasks=frozenset({Task.GENERATE, Task.SUMMARIZE, Task.TRANSLATE}),
    fingerprint="fp_translator",
    source_tokens=32,
    start_token=0,
)


def _with(card: ModelCard, adapter: str) -> ModelCard:
    return replace(
        card, name=adapter, parent=card.name, fingerprint=f"{card.fingerprint}+{adapter}", adapters=()
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

    Sample i > 0 of a request says `others[i - 1]` if there is one. Tokens are numbered from 10; those of
    sample i have the logarithmic probability `logprobs[i]`, or the last there is.
    `refusal` is raised before any work; `failure` is raised in place of token number `fails_at`.
    `pauses_s` is how long to think before a token, by its number; a request with a deadline meets it before
    token number `expires_at`. `running` counts open streams.
    """

    script: Sequence[str] = ("Hel", "lo", "!")
    others: Sequence[Sequence[str]] = ()
    logprobs: Sequence[float] = (-0.5,)
    cached_tokens: int = 0
    cards: tuple[ModelCard, ...] = (DECODER, ENCODER)
    refusal: Exception | None = None
    failure: Exception | None = None
    fails_at: int = 0
    expires_at: int = 0
    pauses_s: Mapping[int, float] = field(default_factory=dict)
    alive: bool = True
    stats: Stats = field(default_factory=Stats)
    running: int = 0
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    spoken: tuple[str, ...] = ()
    needs_target: bool = False
    loaded: dict[str, str] = field(default_factory=dict)  # adapters, and the folders that they came from
    asked: list[GenerateRequest | FillMaskRequest | EmbedRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        for card in self.cards:
            self.stats.models[card.name] = ModelStats()

    def select(self, task: Task, name: str | None) -> ModelCard:
        adapted = [_with(card, one) for card in self.cards for one in card.adapters]
        able = [card for card in (*self.cards, *adapted) if task in card.tasks]
        names = [card.name for card in (*self.cards, *adapted)]
        if name is None and not able:
            raise TaskUnavailable(task.value, names)
        if name is not None and name not in names:
            raise ModelNotFound(names)
        for card in able:
            if name in (None, card.name):
                return card
        raise InvalidRequest(f"the model named in `model` cannot do {task.value}", parameter="model")

    async def load_adapter(self, name: str, path: str, *, model: str | None = None) -> ModelCard:
        base = next(card for card in self.cards if model in (None, card.name))
        self._put(replace(base, adapters=(*base.adapters, name)))
        self.loaded[name] = path
        return self.select(min(base.tasks, key=lambda task: task.value), name)

    def unload_adapter(self, name: str) -> None:
        for card in self.cards:
            if name in card.adapters:
                self._put(replace(card, adapters=tuple(one for one in card.adapters if one != name)))
                return
        raise ModelNotFound([one for card in self.cards for one in card.adapters], parameter="lora_name")

    def _put(self, changed: ModelCard) -> None:
        self.cards = tuple(changed if card.name == changed.name else card for card in self.cards)

    def generation_defaults(self, model: str) -> GenerationDefaults:
        return self.defaults

    def languages(self, model: str) -> tuple[str, ...]:
        return self.spoken

    def needs_target_language(self, model: str) -> bool:
        return self.needs_target

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self._note(request)
        prompt = self._fit(request)
        self.running += 1
        try:
            said = _Said(request=request, prompt=prompt, cached_tokens=self.cached_tokens)
            script = self._script(request)
            scores = _scored(prompt, request.prompt_alternatives)
            for number, piece in enumerate(script[: request.max_new_tokens]):
                await asyncio.sleep(self.pauses_s.get(number, 0))
                if self.failure is not None and number == self.fails_at:
                    raise self.failure
                if request.terms.timeout_s is not None and number == self.expires_at:
                    yield Chunk(tokens=(), finish=said.finish(FinishReason.TIMEOUT), prompt=scores)
                    return
                token = self._token(request, number, piece)
                finish = said.say(token, last=number == len(script) - 1)
                yield Chunk(tokens=(token,), finish=finish, prompt=scores)
                scores = ()
                if finish is not None:
                    return
            yield Chunk(tokens=(), finish=said.finish(FinishReason.LENGTH), prompt=scores)
        finally:
            self.running -= 1

    def _script(self, request: GenerateRequest) -> Sequence[str]:
        number = request.sampling.sample
        return self.others[number - 1] if 0 < number <= len(self.others) else self.script

    def _token(self, request: GenerateRequest, number: int, piece: str) -> Token:
        logprob = self.logprobs[min(request.sampling.sample, len(self.logprobs) - 1)]
        return Token(
            id=number + 10,
            text=piece,
            logprob=logprob,
            alternatives=_alternatives(number + 10, piece, logprob, request.alternatives),
        )

    def _note(self, request: GenerateRequest | FillMaskRequest | EmbedRequest) -> None:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal

    def _fit(self, request: GenerateRequest) -> tuple[tuple[int, str], ...]:
        """The prompt's tokens, ids and texts: a word is a token, and its id its length."""
        prompt = request.prompt
        if isinstance(prompt, str):
            tokens = tuple((len(word), word) for word in prompt.split())
        else:
            tokens = tuple((id_, f"<{id_}>") for id_ in prompt)
        card = self.select(Task.GENERATE, request.model)
        limit = card.max_tokens + (card.source_tokens or 0)
        new_tokens = 1 if request.max_new_tokens is None else request.max_new_tokens
        if len(tokens) + new_tokens > limit:
            raise ContextTooLong(tokens=len(tokens), limit=limit, new_tokens=request.max_new_tokens)
        return tokens

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


@dataclass(slots=True, kw_only=True)
class _Said:
    """One answer as far as it goes, and when it ends."""

    request: GenerateRequest
    prompt: tuple[tuple[int, str], ...]
    cached_tokens: int
    tokens: list[Token] = field(default_factory=list)
    stop: str | int | None = None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    def say(self, token: Token, *, last: bool) -> Finish | None:
        """Add a token; how the answer ends if it ends with this one."""
        self.tokens.append(token)
        strings = (stop for stop in self.request.stop if stop in self.text)
        ids = (stop for stop in self.request.stop_tokens if stop == token.id)
        self.stop = next(strings, next(ids, None))
        if self.stop is not None:
            return self.finish(FinishReason.STOP)
        if len(self.tokens) == self.request.max_new_tokens:
            return self.finish(FinishReason.LENGTH)
        return self.finish(FinishReason.EOS) if last else None

    def finish(self, reason: FinishReason) -> Finish:
        return Finish(
            reason=reason,
            text=self._kept(),
            prompt_tokens=len(self.prompt),
            generated_tokens=len(self.tokens),
            seed=self.request.sampling.seed,
            stop=self.stop,
            cached_tokens=self.cached_tokens,
            prompt_ids=tuple(id_ for id_, _ in self.prompt),
            output_ids=tuple(token.id for token in self.tokens),
        )

    def _kept(self) -> str:
        """The text, its stop string left out unless it is asked for."""
        if not isinstance(self.stop, str):
            return self.text
        end = self.text.index(self.stop)
        return self.text[: end + len(self.stop) if self.request.include_stop else end]


def _alternatives(id_: int, text: str, logprob: float, count: int) -> tuple[Alternative, ...]:
    """The token itself, then made-up ones, each with twice the negative logarithm."""
    return tuple(
        Alternative(id=id_ + 100 * rank, text=f"{text}{'~' * rank}", logprob=logprob * 2**rank)
        for rank in range(count)
    )


def _scored(prompt: tuple[tuple[int, str], ...], alternatives: int | None) -> tuple[Token, ...]:
    """The prompt's tokens if they are to be scored: -1, -2, … after the first, which has no score."""
    if alternatives is None:
        return ()
    return tuple(
        Token(
            id=id_,
            text=text,
            logprob=-float(place) if place else None,
            alternatives=_alternatives(id_, text, -float(place), alternatives) if place else (),
        )
        for place, (id_, text) in enumerate(prompt)
    )

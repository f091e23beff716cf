"""The face of the engine process: text goes in, text comes out.

Every method raises a ServerError for what the caller did wrong or the engine could not do. Whoever
stops waiting, for whatever reason, aborts the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from server.engine import commands
from server.engine.admission import Admission
from server.engine.catalogue import Catalogue, Served
from server.engine.link import Answer, Link, Lost
from server.engine.loras import Loras
from server.engine.messages import Embed, FillMask, Generate, MaskScores, Refused, Sampled, Vector
from server.engine.sources import needs_target_language
from server.engine.stats import ModelStats, Stats
from server.engine.transcript import Transcript
from server.errors import EngineFailed, InvalidRequest, NotReady, Overloaded, ServerError
from server.request import (
    Chunk,
    Embedding,
    EmbedRequest,
    EmbedWork,
    FillMaskRequest,
    GenerateRequest,
    MaskCandidate,
    MaskWork,
    ModelCard,
    Sampling,
    Task,
)
from server.text.generation_defaults import GenerationDefaults
from server.text.tokenizer import Tokenizer, TokenSpan

FRESH_S = 10.0  # a step this recent proves that a model's forward pass works
PROBE_TIMEOUT_S = 5.0
PASSES = frozenset({Task.GENERATE, Task.FILL_MASK, Task.EMBED})  # the other tasks are one of these

A = TypeVar("A", Sampled, Vector, MaskScores)


class Engine:
    """Call `load` once; until it returns, every request is answered NotReady."""

    def __init__(
        self,
        link: Link,
        tokenizers: Mapping[str, Tokenizer],
        *,
        max_requests: int,
        defaults: Mapping[str, GenerationDefaults] | None = None,
    ) -> None:
        """`defaults`: how the models' folders would have them generate, by model."""
        self._link = link
        self._tokenizers = tokenizers
        self._defaults = defaults or {}
        self._admission = Admission(max_requests)
        self._loras = Loras(link)
        self._catalogue: Catalogue | None = None
        self._probing = asyncio.Lock()

    async def load(self) -> None:
        """Wait for the models. Raises NotReady if they cannot be loaded."""
        ready = await self._link.ready()
        catalogue = Catalogue(
            [
                Served(
                    card=card,
                    tokenizer=self._tokenizers[card.name],
                    defaults=self._defaults.get(card.name, GenerationDefaults()),
                )
                for card in ready.cards
            ]
        )
        for card in ready.cards:
            self.stats.models.setdefault(card.name, ModelStats())
            for name, fingerprint in ready.loras.get(card.name, {}).items():
                catalogue.add(name, card.name, lora=name, fingerprint=fingerprint)
        self._catalogue = catalogue

    async def lost(self) -> str:
        """Wait until nothing will be answered any more; why."""
        return await self._link.lost()

    async def close(self) -> None:
        await self._link.close()

    @property
    def stats(self) -> Stats:
        return self._link.stats

    @property
    def alive(self) -> bool:
        """False once the engine process has stopped: nothing will be answered any more."""
        return self._link.gone is None

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return self._catalogue.cards if self._catalogue is not None else ()

    def select(self, task: Task, name: str | None) -> ModelCard:
        """The model that a request means: the named one, or the first that can do the task."""
        return self._models.select(task, name).card

    def generation_defaults(self, model: str) -> GenerationDefaults:
        """How the folder of that model would have it generate."""
        return self._models.named(model).defaults

    def languages(self, model: str) -> tuple[str, ...]:
        """Between which that model translates, as requests name them; none where its tokenizer knows none."""
        return self._models.named(model).tokenizer.languages

    def needs_target_language(self, model: str) -> bool:
        """Whether that model translates into several languages, and into none of them by itself."""
        return needs_target_language(self._models.named(model))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer. Closing the iterator, for whatever reason, aborts the request."""
        model = self._models.select(Task.GENERATE, request.model, request.lora)
        stats, asked_at, last = self.stats.models[model.name], _now(), None
        with self._admitted(model, Task.GENERATE):
            command = await asyncio.to_thread(commands.generate, self._link.new_id(), model, request)
            transcript = Transcript(model.tokenizer, command, request)
            stats.prompt_tokens += len(command.prompt)
            with self._link.asked(command) as answers:
                chunk = Chunk(tokens=())
                while chunk.finish is None:
                    if chunk.tokens or chunk.prompt:
                        yield chunk
                    sampled = _expect(Sampled, await answers.get())
                    last = _observe(stats, len(sampled.tokens), asked_at, last)
                    if transcript.owes_prompt:  # thousands of tokens to spell, each with its alternatives
                        chunk = await asyncio.to_thread(transcript.push, sampled)
                    else:
                        chunk = transcript.push(sampled)
        yield chunk  # the place in the queue is free by now

    async def fill_mask(self, request: FillMaskRequest) -> list[list[MaskCandidate]]:
        """Candidates for every mask of the text, best first: one list a mask."""
        model = self._models.select(Task.FILL_MASK, request.model, request.lora)
        with self._admitted(model, Task.FILL_MASK):
            command = await asyncio.to_thread(commands.fill_mask, self._link.new_id(), model, request)
            with self._link.asked(command) as answers:
                scores = _expect(MaskScores, await answers.get())
            return await asyncio.to_thread(_candidates, model.tokenizer, command, scores)

    async def embed(self, request: EmbedRequest) -> Embedding:
        """One text as one vector."""
        model = self._models.select(Task.EMBED, request.model, request.lora)
        with self._admitted(model, Task.EMBED):
            command = await asyncio.to_thread(commands.embed, self._link.new_id(), model, request)
            with self._link.asked(command) as answers:
                vector = _expect(Vector, await answers.get())
        return Embedding(vector=vector.values, tokens=len(command.tokens))

    async def tokenize(
        self, text: str, *, model: str | None, add_special_tokens: bool = True
    ) -> list[TokenSpan]:
        tokenizer = self._models.named(model).tokenizer
        return await asyncio.to_thread(
            tokenizer.encode_with_offsets, text, add_special_tokens=add_special_tokens
        )

    async def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, model: str | None, **options: bool
    ) -> str:
        """The prompt that the model's own chat template makes of a conversation."""
        tokenizer = self._models.select(Task.GENERATE, model).tokenizer
        return await asyncio.to_thread(tokenizer.render_chat, messages, **options)

    async def load_adapter(self, name: str, path: str, *, model: str | None = None) -> ModelCard:
        """From now on `name` means a model with the adapter in the folder `path`; the only one, if none is
        named. Returns the card of the two.

        Raises ModelNotFound, and InvalidRequest where the name is taken or the folder holds no such adapter.
        """
        return await self._loras.load(self._models, name, path, model)

    def unload_adapter(self, name: str) -> None:
        """New requests do not find it; those under way end with it. Raises ModelNotFound."""
        self._loras.unload(self._models, name)

    async def check_ready(self) -> None:
        """Return when every model's forward pass has worked lately, running those that were idle.

        Raises EngineFailed or NotReady, saying why not.
        """
        async with self._probing:
            for model in self._models:
                if _now() - self._link.last_step_at.get(model.name, float("-inf")) > FRESH_S:
                    await self._probe(model)

    @property
    def _models(self) -> Catalogue:
        if self._link.gone is not None:
            raise EngineFailed(self._link.gone)
        if self._catalogue is None:
            raise NotReady("the models are still loading")
        return self._catalogue

    async def _probe(self, model: Served) -> None:
        """A real forward pass of one token for everything that the model can do."""
        for task in sorted(model.card.tasks & PASSES, key=lambda task: task.value):
            try:
                with self._link.asked(_probe(self._link.new_id(), model.card, task)) as answers:
                    answer = await asyncio.wait_for(answers.get(), PROBE_TIMEOUT_S)
            except TimeoutError:
                raise NotReady(f"{model.name} did not answer within {PROBE_TIMEOUT_S:g} s") from None
            if isinstance(answer, Lost):
                raise EngineFailed(answer.reason)

    @contextmanager
    def _admitted(self, model: Served, task: Task) -> Iterator[None]:
        """A place in the queue for as long as the work takes, its adapter kept, a line in the statistics."""
        stats, started = self.stats.models[model.name], _now()
        outcome = "aborted"  # unless it ends in one of the other ways
        try:
            self._admission.enter(started)
            try:
                with self._loras.used_by(model):
                    yield
                outcome = "ok"
            finally:
                self._admission.leave(_now())
        except Overloaded:
            outcome = "refused"
            raise
        except ServerError:
            outcome = "failed"
            raise
        finally:
            stats.requests[task.value, outcome] += 1
            stats.request_latency.observe(_now() - started)


def _probe(id_: int, card: ModelCard, task: Task) -> Generate | FillMask | Embed:
    match task:
        case Task.FILL_MASK:
            return FillMask(id_, card.name, (0,), MaskWork(positions=(0,), top_k=1))
        case Task.EMBED:
            return Embed(id_, card.name, (0,), EmbedWork())
        case _:
            source = () if card.source_tokens is None else (0,)
            return Generate(id_, card.name, [0], 1, Sampling(temperature=0.0), [], source=source)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _expect(kind: type[A], answer: Answer) -> A:
    if isinstance(answer, Lost):
        raise EngineFailed(answer.reason)
    if isinstance(answer, Refused):
        raise _refusal(answer)
    assert isinstance(answer, kind), f"asked for {kind.__name__}, got {answer}"
    return answer


def _refusal(refused: Refused) -> ServerError:
    if refused.retry_after_s is not None:
        return Overloaded(refused.retry_after_s, refused.reason)
    return InvalidRequest(refused.reason, parameter=refused.parameter)


def _observe(stats: ModelStats, tokens: int, asked_at: float, last: float | None) -> float | None:
    """Count tokens, and how long they took since the last ones, or since they were asked for.

    Of several that come at once, each took its share of the time: so much waits a reader for a token.
    """
    if not tokens:
        return last
    now = _now()
    stats.generated_tokens += tokens
    if last is None:
        stats.time_to_first_token.observe(now - asked_at)
        return now
    for _ in range(tokens):
        stats.inter_token_latency.observe((now - last) / tokens)
    return now


def _candidates(tokenizer: Tokenizer, command: FillMask, scores: MaskScores) -> list[list[MaskCandidate]]:
    """As transformers' pipeline shows them: special tokens are left out where there is but one mask."""
    single = len(command.work.positions) == 1
    filled = list(command.tokens)
    lists = list[list[MaskCandidate]]()
    for position, candidates in zip(command.work.positions, scores.masks, strict=True):
        lists.append([])
        for token, score in candidates:
            filled[position] = token
            sequence = tokenizer.decode(filled, skip_special_tokens=single)
            one = MaskCandidate(
                score=score, token=token, token_str=tokenizer.decode([token]), sequence=sequence
            )
            lists[-1].append(one)
        filled[position] = command.tokens[position]
    return lists

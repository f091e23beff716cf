"""What is asked in each API that a server may speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from triptych_client.bench.readers import (
    Progress,
    read_embeddings,
    read_generation,
    read_openai_event,
    read_ranks,
    read_token_event,
    read_vectors,
)

LeftOut = frozenset[str]
CAN_BE_LEFT_OUT = frozenset({"ignore_eos", "min_tokens", "stream_options"})
"""Fields that make a measurement exact, and that some servers do not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request: the `texts` that it brings, and how many `tokens` to generate for them.

    Generation takes one text; `/rerank` takes the first for the query.
    """

    texts: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one API is spoken.

    api: what the command line calls it.
    write: the body of a request, without the fields that are to be left out.
    read_event: what one event of a stream says; None where the answer comes whole.
    read_answer: what a whole answer says; None where it is a stream.
    generates: whether tokens come out, rather than something about the texts that went in.
    queries: how many of a question's texts, the first ones, only ask about the others.
    """

    api: str
    path: str
    model: str | None
    write: Callable[[Question, LeftOut], dict[str, Any]]
    read_event: Callable[[str], Progress] | None = None
    read_answer: Callable[[bytes, Mapping[str, str]], Progress] | None = None
    generates: bool = True
    queries: int = 0

    def body(self, question: Question, left_out: LeftOut = frozenset()) -> dict[str, Any]:
        return self.write(question, left_out) | ({} if self.model is None else {"model": self.model})

    @property
    def streamed(self) -> bool:
        return self.read_event is not None


def to_blame(body: Mapping[str, Any], refusal: str) -> LeftOut:
    """The fields to leave out next, after `body` was refused in these words.

    Those that the words name, else all that can be left out; none, where none was sent.
    """
    sent = CAN_BE_LEFT_OUT & (body.keys() | body.get("parameters", {}).keys())
    return frozenset(name for name in sent if name in refusal) or sent


def tgi(model: str | None = None) -> Dialect:
    """`POST /generate_stream`, as Triptych and text-generation-inference speak it: an event a token."""
    return Dialect(
        api="generate_stream",
        path="/generate_stream",
        model=model,
        write=_generate_body,
        read_event=read_token_event,
    )


def tgi_whole(model: str | None = None) -> Dialect:
    """`POST /generate`: the same without a stream, so that only whole answers are timed."""
    return Dialect(
        api="generate", path="/generate", model=model, write=_generate_body, read_answer=read_generation
    )


def openai_completions(model: str | None = None) -> Dialect:
    """`POST /v1/completions`, as Triptych, vLLM, SGLang and llama.cpp speak it; greedy, streamed."""

    def body(question: Question, left_out: LeftOut) -> dict[str, Any]:
        return {"prompt": question.texts[0], **_openai_settings(question.tokens, left_out)}

    return Dialect(
        api="completions", path="/v1/completions", model=model, write=body, read_event=read_openai_event
    )


def openai_chat(model: str | None = None) -> Dialect:
    """`POST /v1/chat/completions`; one message of the user's, greedy, streamed."""

    def body(question: Question, left_out: LeftOut) -> dict[str, Any]:
        message = {"role": "user", "content": question.texts[0]}
        return {"messages": [message], **_openai_settings(question.tokens, left_out)}

    return Dialect(
        api="chat", path="/v1/chat/completions", model=model, write=body, read_event=read_openai_event
    )


def openai_embeddings(model: str | None = None) -> Dialect:
    """`POST /v1/embeddings`."""
    return Dialect(
        api="embeddings",
        path="/v1/embeddings",
        model=model,
        write=lambda question, left_out: {"input": list(question.texts)},
        read_answer=read_embeddings,
        generates=False,
    )


def tei_embed(model: str | None = None) -> Dialect:
    """`POST /embed`, as Triptych and text-embeddings-inference speak it."""
    return Dialect(
        api="embed",
        path="/embed",
        model=model,
        write=lambda question, left_out: {"inputs": list(question.texts), "truncate": True},
        read_answer=read_vectors,
        generates=False,
    )


def tei_rerank(model: str | None = None) -> Dialect:
    """`POST /rerank`: the texts after the first are ranked by the first."""

    def body(question: Question, left_out: LeftOut) -> dict[str, Any]:
        query, *texts = question.texts
        return {"query": query, "texts": texts, "truncate": True}

    return Dialect(
        api="rerank",
        path="/rerank",
        model=model,
        write=body,
        read_answer=read_ranks,
        generates=False,
        queries=1,
    )


APIS: Mapping[str, Callable[[str | None], Dialect]] = {
    "completions": openai_completions,
    "chat": openai_chat,
    "embeddings": openai_embeddings,
    "generate_stream": tgi,
    "generate": tgi_whole,
    "embed": tei_embed,
    "rerank": tei_rerank,
}
"""By the last word of their route."""


def _generate_body(question: Question, left_out: LeftOut) -> dict[str, Any]:
    length = {} if "ignore_eos" in left_out else {"ignore_eos": True}
    parameters = {"max_new_tokens": question.tokens, **length, "details": True}
    return {"inputs": question.texts[0], "parameters": parameters}


def _openai_settings(tokens: int, left_out: LeftOut) -> dict[str, Any]:
    settings = {"max_tokens": tokens, "temperature": 0, "stream": True, **_whole_length(tokens, left_out)}
    if "stream_options" not in left_out:
        settings["stream_options"] = {"include_usage": True}
    return settings


def _whole_length(tokens: int, left_out: LeftOut) -> dict[str, Any]:
    """vLLM's, SGLang's, llama.cpp's and our word for it; else the second-best, which costs a mask a step."""
    if "ignore_eos" not in left_out:
        return {"ignore_eos": True}
    return {} if "min_tokens" in left_out else {"min_tokens": tokens}

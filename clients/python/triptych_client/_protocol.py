"""What travels, without the travelling: builds requests and says how each answer is read.

Nothing here touches a socket, so `Client` and `AsyncClient` are thin shells that agree by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from triptych_client._failures import Headers
from triptych_client._fields import field, first, optional, unlike
from triptych_client._readers import (
    ChatReader,
    PieceReader,
    TokenReader,
    chat_generation,
    read_scored,
    read_token,
)
from triptych_client._types import Generation, MaskCandidate, Message, ModelCard, Options, Verdict

T = TypeVar("T")

TGI_NAMES = {"n": "best_of", "top_logprobs": "top_n_tokens", "timeout_s": "timeout"}
OPENAI_NAMES = {"max_new_tokens": "max_tokens", "timeout_s": "timeout"}
"""What the dialects call some of the options; the others go by their own names."""

TGI_SHAPES = {"json_schema": "json", "regex": "regex", "choices": "choice", "grammar": "ebnf"}
OPENAI_SHAPES = {"json_schema": "json", "regex": "regex", "choices": "choice", "grammar": "grammar"}
"""What the dialects call what a text must be."""

CHOOSING = ("temperature", "top_k", "top_p", "min_p")  # any of these asks for sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request, and how to read its answer. Without a body it is a GET."""

    path: str
    read: Callable[[Any, Headers], T]
    body: Mapping[str, Any] | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCall:
    """A request that is answered by events; `reader` makes a fresh reader for one answer."""

    path: str
    body: Mapping[str, Any]
    reader: Callable[[Headers], PieceReader]
    method: str = "POST"


# What is asked.


def generate(prompt: str, options: Options) -> Call[Generation]:
    return Call(path="/generate", body=_generate_body(prompt, options), read=_read_generation)


def stream(prompt: str, options: Options) -> StreamCall:
    body = _generate_body(prompt, _of_one_text(options))
    return StreamCall(path="/generate_stream", body=body, reader=lambda headers: TokenReader())


def chat(messages: str | Sequence[Message], options: Options) -> Call[Generation]:
    return Call(path="/v1/chat/completions", body=_chat_body(messages, options), read=_read_chat)


def stream_chat(messages: str | Sequence[Message], options: Options) -> StreamCall:
    body = {
        **_chat_body(messages, _of_one_text(options)),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return StreamCall(path="/v1/chat/completions", body=body, reader=ChatReader)


def fill_mask(
    text: str, *, top_k: int | None, targets: Sequence[str] | None, model: str | None
) -> Call[list[list[MaskCandidate]]]:
    parameters = {"top_k": top_k, "targets": None if targets is None else list(targets)}
    body = {"inputs": text, "parameters": _given(parameters), **_given({"model": model})}
    return Call(path="/fill-mask", body=body, read=_read_masks)


def embed(
    texts: Sequence[str], *, normalize: bool, truncate: bool, dimensions: int | None, model: str | None
) -> Call[list[list[float]]]:
    optional = _given({"dimensions": dimensions, "model": model})
    body = {"inputs": list(texts), "normalize": normalize, "truncate": truncate, **optional}
    return Call(path="/embed", body=body, read=lambda answer, headers: _read_vectors(answer, len(texts)))


def verify(receipt: Mapping[str, Any], *, model: str | None, force: bool) -> Call[Verdict]:
    body = {"receipt": dict(receipt), "force": force, **_given({"model": model})}
    return Call(path="/v1/verify", body=body, read=_read_verdict)


def models() -> Call[list[ModelCard]]:
    return Call(path="/v1/models", read=_read_models)


def _generate_body(prompt: str, options: Options) -> dict[str, Any]:
    parameters = _renamed(_checked(options), TGI_NAMES)
    model, extra = parameters.pop("model", None), parameters.pop("extra", {})
    shape = _take_shape(parameters, TGI_SHAPES)
    if (
        parameters.get("temperature") == 0
    ):  # TGI's wire has no temperature 0: there, greedy is no sampling at all
        parameters = {name: value for name, value in parameters.items() if name not in CHOOSING}
    elif any(name in parameters for name in CHOOSING):
        parameters["do_sample"] = True
    if shape is not None:
        parameters["grammar"] = {"type": shape[0], "value": shape[1]}
    parameters = {**parameters, "details": True, **extra}
    return {"inputs": prompt, "parameters": parameters, **_given({"model": model})}


def _chat_body(messages: str | Sequence[Message], options: Options) -> dict[str, Any]:
    parameters = _renamed(_checked(options), OPENAI_NAMES)
    extra = parameters.pop("extra", {})
    shape = _take_shape(parameters, OPENAI_SHAPES)
    if shape is not None:
        parameters["structured_outputs"] = {shape[0]: shape[1]}
    if "top_logprobs" in parameters:
        parameters["logprobs"] = True
    turns = [Message(role="user", content=messages)] if isinstance(messages, str) else list(messages)
    return {"messages": turns, **parameters, **extra}


def _take_shape(parameters: dict[str, Any], names: Mapping[str, str]) -> tuple[str, Any] | None:
    """What the text must be, by the dialect's name for it, taken out of the `parameters`."""
    shapes = [(option, parameters.pop(option)) for option in names if option in parameters]
    if len(shapes) > 1:
        raise ValueError(f"{' and '.join(f'`{option}`' for option, _ in shapes)} exclude each other")
    return (names[shapes[0][0]], shapes[0][1]) if shapes else None


def _checked(options: Options) -> dict[str, Any]:
    """The options that are given. An unknown one is a mistake in the calling program, told at once."""
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"unknown option: {', '.join(unknown)}; known: {known}")
    given = _given(options)
    if "stop" in given:
        given["stop"] = [given["stop"]] if isinstance(given["stop"], str) else list(given["stop"])
    return given


def _renamed(parameters: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in parameters.items()}


def _of_one_text(options: Options) -> Options:
    if options.get("n") not in (None, 1):
        raise ValueError("`n` does not go with a stream, which is one text")
    return options


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# What is answered.


def _read_generation(answer: Any, headers: Headers) -> Generation:
    # POST / of TGI, and some gateways, wrap the one answer in a list.
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    details = optional(answer, "details", dict) or {}
    best = _read_sequence(answer, details, headers)
    others = optional(details, "best_of_sequences", list) or ()
    return replace(
        best,
        others=tuple(_read_sequence(other, other, headers) for other in others),
        receipt=optional(answer, "receipt", dict),
    )


def _read_sequence(answer: Any, details: Any, headers: Headers) -> Generation:
    """One text of TGI's, and what is told of it."""
    tokens = optional(details, "tokens", list) or ()
    tops = optional(details, "top_tokens", list) or [None] * len(tokens)
    if len(tops) != len(tokens):
        raise unlike("`top_tokens` of each token", details)
    prompt_tokens = headers.get("x-prompt-tokens", "")
    return Generation(
        text=field(answer, "generated_text", str),
        finish_reason=optional(details, "finish_reason", str),
        prompt_tokens=int(prompt_tokens) if prompt_tokens.isdecimal() else None,
        generated_tokens=optional(details, "generated_tokens", int),
        seed=optional(details, "seed", int),
        tokens=tuple(read_token(token, top) for token, top in zip(tokens, tops, strict=True)),
    )


def _read_chat(answer: Any, headers: Headers) -> Generation:
    usage = optional(answer, "usage", dict)

    def read(choice: Any) -> Generation:
        text = optional(field(choice, "message", dict), "content", str) or ""
        return chat_generation(choice, text, tokens=read_scored(choice), usage=usage, headers=headers)

    choices = field(answer, "choices", list)
    return replace(read(first(choices, "choices")), others=tuple(read(choice) for choice in choices[1:]))


def _read_verdict(answer: Any, headers: Headers) -> Verdict:
    return Verdict(
        verdict=field(answer, "verdict", str),
        index=optional(answer, "index", int),
        expected=optional(answer, "expected", int),
        got=optional(answer, "got", int),
    )


def _read_masks(answer: Any, headers: Headers) -> list[list[MaskCandidate]]:
    """One mask is answered by a flat list, several by a list each; the caller always gets a list each."""
    if not isinstance(answer, list):
        raise unlike("a list of candidates", answer)
    per_mask = answer if answer and isinstance(answer[0], list) else [answer]
    return [[_read_candidate(candidate) for candidate in candidates] for candidates in per_mask]


def _read_candidate(candidate: Any) -> MaskCandidate:
    return MaskCandidate(
        score=float(field(candidate, "score", (int, float))),
        token=field(candidate, "token", int),
        token_str=field(candidate, "token_str", str),
        sequence=field(candidate, "sequence", str),
    )


def _read_vectors(answer: Any, count: int) -> list[list[float]]:
    if not isinstance(answer, list) or len(answer) != count:
        raise unlike(f"a list of {count} vectors", answer)
    if not all(isinstance(vector, list) for vector in answer):
        raise unlike(f"a list of {count} vectors", answer)
    return answer


def _read_models(answer: Any, headers: Headers) -> list[ModelCard]:
    return [
        ModelCard(
            name=field(card, "id", str),
            created=optional(card, "created", int),
            owned_by=optional(card, "owned_by", str),
        )
        for card in field(answer, "data", list)
    ]

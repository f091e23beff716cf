"""What is asked: builds requests, and says how each answer is read.

Nothing here touches a socket, so `Client` and `AsyncClient` are thin shells that agree by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from triptych_client._answers import (
    read_chat,
    read_generation,
    read_masks,
    read_models,
    read_texts,
    read_vectors,
    read_verdict,
)
from triptych_client._failures import Headers
from triptych_client._readers import ChatReader, PieceReader, TokenReader
from triptych_client._types import (
    Generation,
    MaskCandidate,
    Message,
    ModelCard,
    Options,
    TextOptions,
    Verdict,
)

T = TypeVar("T")

TGI_NAMES = {"n": "best_of", "top_logprobs": "top_n_tokens", "timeout_s": "timeout"}
OPENAI_NAMES = {"max_new_tokens": "max_tokens", "timeout_s": "timeout"}
"""What the dialects call some of the options; the others go by their own names."""

TGI_SHAPES = {"json_schema": "json", "regex": "regex", "choices": "choice", "grammar": "ebnf"}
OPENAI_SHAPES = {"json_schema": "json", "regex": "regex", "choices": "choice", "grammar": "grammar"}
"""What the dialects call what a text must be."""

CHOOSING = ("temperature", "top_k", "top_p", "min_p")  # any of these asks for sampling
BESIDE = (
    "priority",
    "timeout",
)  # how a request stands, which Hugging Face's tasks have apart from the text's


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


def generate(prompt: str, options: Options) -> Call[Generation]:
    return Call(path="/generate", body=_generate_body(prompt, options), read=read_generation)


def stream(prompt: str, options: Options) -> StreamCall:
    body = _generate_body(prompt, _of_one_text(options))
    return StreamCall(path="/generate_stream", body=body, reader=lambda headers: TokenReader())


def chat(messages: str | Sequence[Message], options: Options) -> Call[Generation]:
    return Call(path="/v1/chat/completions", body=_chat_body(messages, options), read=read_chat)


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
    return Call(path="/fill-mask", body=body, read=read_masks)


def embed(
    texts: str | Sequence[str],
    *,
    normalize: bool,
    truncate: bool,
    dimensions: int | None,
    model: str | None,
) -> Call[list[list[float]]]:
    batch, optional = _as_list(texts), _given({"dimensions": dimensions, "model": model})
    body = {"inputs": batch, "normalize": normalize, "truncate": truncate, **optional}
    return Call(path="/embed", body=body, read=lambda answer, headers: read_vectors(answer, len(batch)))


def summarize(
    texts: str | Sequence[str], options: TextOptions, *, truncate: bool, clean_up_spaces: bool
) -> Call[list[str]]:
    batch, about = _as_list(texts), _about_texts(truncate=truncate, clean_up_spaces=clean_up_spaces)
    return Call(
        path="/summarize",
        body=_task_body(batch, about, options),
        read=lambda answer, headers: read_texts(answer, "summary_text", len(batch)),
    )


def translate(
    texts: str | Sequence[str],
    options: TextOptions,
    *,
    src_lang: str | None,
    tgt_lang: str | None,
    truncate: bool,
    clean_up_spaces: bool,
) -> Call[list[str]]:
    batch, about = _as_list(texts), _about_texts(truncate=truncate, clean_up_spaces=clean_up_spaces)
    about |= _given({"src_lang": src_lang, "tgt_lang": tgt_lang})
    return Call(
        path="/translate",
        body=_task_body(batch, about, options),
        read=lambda answer, headers: read_texts(answer, "translation_text", len(batch)),
    )


def verify(receipt: Mapping[str, Any], *, model: str | None, force: bool) -> Call[Verdict]:
    body = {"receipt": dict(receipt), "force": force, **_given({"model": model})}
    return Call(path="/v1/verify", body=body, read=read_verdict)


def models() -> Call[list[ModelCard]]:
    return Call(path="/v1/models", read=read_models)


def _generate_body(prompt: str, options: Options) -> dict[str, Any]:
    parameters = _renamed(_checked(options, Options), TGI_NAMES)
    model, extra = parameters.pop("model", None), parameters.pop("extra", {})
    shape = _take_shape(parameters, TGI_SHAPES)
    if parameters.get("temperature") == 0:
        # TGI's wire has no temperature 0: there, greedy is no sampling at all
        parameters = {name: value for name, value in parameters.items() if name not in CHOOSING}
    elif parameters.get("num_beams", 1) == 1 and any(name in parameters for name in CHOOSING):
        # Beside beams it is left out: the server then names the option that contradicts them.
        parameters["do_sample"] = True
    if shape is not None:
        parameters["grammar"] = {"type": shape[0], "value": shape[1]}
    parameters = {**parameters, "details": True, **extra}
    return {"inputs": prompt, "parameters": parameters, **_given({"model": model})}


def _chat_body(messages: str | Sequence[Message], options: Options) -> dict[str, Any]:
    parameters = _renamed(_checked(options, Options), OPENAI_NAMES)
    extra = parameters.pop("extra", {})
    shape = _take_shape(parameters, OPENAI_SHAPES)
    if shape is not None:
        parameters["structured_outputs"] = {shape[0]: shape[1]}
    if "top_logprobs" in parameters:
        parameters["logprobs"] = True
    turns = [Message(role="user", content=messages)] if isinstance(messages, str) else list(messages)
    return {"messages": turns, **parameters, **extra}


def _task_body(texts: list[str], about: Mapping[str, Any], options: TextOptions) -> dict[str, Any]:
    """Hugging Face's: how texts are written lies in a drawer of its own, `about` the task beside it."""
    written = _renamed(_checked(options, TextOptions), TGI_NAMES)
    model, extra = written.pop("model", None), written.pop("extra", {})
    standing = {name: written.pop(name) for name in BESIDE if name in written}
    parameters = {**about, **standing, "generate_parameters": {**written, **extra}}
    return {"inputs": texts, "parameters": parameters, **_given({"model": model})}


def _about_texts(*, truncate: bool, clean_up_spaces: bool) -> dict[str, Any]:
    truncation = "only_first" if truncate else None
    return _given({"truncation": truncation, "clean_up_tokenization_spaces": clean_up_spaces or None})


def _take_shape(parameters: dict[str, Any], names: Mapping[str, str]) -> tuple[str, Any] | None:
    """What the text must be, by the dialect's name for it, taken out of the `parameters`."""
    shapes = [(option, parameters.pop(option)) for option in names if option in parameters]
    if len(shapes) > 1:
        raise ValueError(f"{' and '.join(f'`{option}`' for option, _ in shapes)} exclude each other")
    return (names[shapes[0][0]], shapes[0][1]) if shapes else None


def _checked(options: TextOptions, known: type[TextOptions]) -> dict[str, Any]:
    """The options that are given. One that is not `known` is the calling program's mistake, told at once."""
    unknown = sorted(options.keys() - known.__annotations__.keys())
    if unknown:
        raise TypeError(f"unknown option: {', '.join(unknown)}; known: {', '.join(known.__annotations__)}")
    given = _given(options)
    if "stop" in given:
        given["stop"] = _as_list(given["stop"])
    return given


def _renamed(parameters: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in parameters.items()}


def _of_one_text(options: Options) -> Options:
    if options.get("n") not in (None, 1):
        raise ValueError("`n` does not go with a stream, which is one text")
    return options


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _as_list(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)

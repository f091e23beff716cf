"""What an encoder-decoder is sent: a source that its encoder reads, and what its decoder begins with.

Some of it follows from the folder of the model: tokens that come first, last or never in every answer.
"""

from __future__ import annotations

from dataclasses import replace

from server.engine.catalogue import Served
from server.engine.truncation import truncated
from server.errors import ContextTooLong, EmptyInput, InvalidRequest
from server.request import GenerateRequest, Sampling, Side


def read_source(model: Served, request: GenerateRequest) -> tuple[int, ...]:
    """The tokens of the prompt, for the encoder. `truncate` keeps its beginning.

    Raises InvalidRequest, EmptyInput or ContextTooLong.
    """
    if request.prompt_alternatives is not None:
        raise InvalidRequest(
            "this model reads its input with an encoder: only the tokens of the answer have scores",
            parameter="decoder_input_details",
        )
    limit = model.card.source_tokens or 0
    tokens = _tokens(model, request)
    if not tokens:
        raise EmptyInput
    if request.truncate is not None and len(tokens) > request.truncate:
        tokens = truncated(model, tokens, request.prompt, min(request.truncate, limit), Side.RIGHT)
    if len(tokens) > limit:
        raise ContextTooLong(tokens=len(tokens), limit=limit)
    return tuple(tokens)


def _tokens(model: Served, request: GenerateRequest) -> list[int]:
    if not request.prompt:
        raise EmptyInput
    if not isinstance(request.prompt, str):
        return list(request.prompt)
    target = request.target_language if model.tokenizer.target_leads_the_source else None
    return model.tokenizer.encode(
        request.prompt,
        add_special_tokens=request.add_special_tokens,
        source_language=request.source_language,
        target_language=target,
    )


def begin(model: Served, request: GenerateRequest) -> list[int]:
    """What the decoder is given before it writes: its start token. Raises InvalidRequest."""
    if model.tokenizer.target_is_the_start and request.target_language is not None:
        return [model.tokenizer.target_language_id(request.target_language)]
    start = model.defaults.decoder_start
    start = model.card.start_token if start is None else start
    assert start is not None, "the loader refuses an encoder-decoder without a start token"
    return [start]


def in_character(model: Served, request: GenerateRequest, sampling: Sampling) -> Sampling:
    """With what every answer of this model begins and ends with, and never says. Raises InvalidRequest."""
    defaults, first = model.defaults, sampling.forced_first
    if first is None:
        first = _language(model, request)
    return replace(
        sampling,
        forced_first=defaults.forced_first if first is None else first,
        forced_last=defaults.forced_last if sampling.forced_last is None else sampling.forced_last,
        bad_words=(*sampling.bad_words, *(defaults.bad_words_ids or ())),
    )


def _language(model: Served, request: GenerateRequest) -> int | None:
    """The token of the language to answer in, where the answer begins with it."""
    code = request.target_language
    if code is None or not model.tokenizer.target_begins_the_answer:
        return None
    return model.tokenizer.target_language_id(code)


def needs_target_language(model: Served) -> bool:
    """Whether the answer begins with a language that nothing but a request can tell."""
    return model.tokenizer.target_begins_the_answer and model.defaults.forced_first is None

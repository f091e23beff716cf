"""From what a caller asked to what the engine process is sent: tokens, and checks that they fit.

Plain functions that tokenise, so they belong in a thread. All raise InvalidRequest or a kind of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from server.engine.catalogue import Served
from server.engine.messages import Embed, FillMask, Generate, Standing
from server.engine.sources import begin, in_character, read_source
from server.engine.truncation import truncated
from server.errors import AnswerTooLong, ContextTooLong, EmptyInput, InvalidRequest, NoMask, RequestTooLarge
from server.grammar import check
from server.request import (
    EmbedRequest,
    EmbedWork,
    FillMaskRequest,
    GenerateRequest,
    MaskWork,
    Sampling,
    Terms,
)
from server.text.tokenizer import Tokenizer

MAX_CANDIDATES = 2000  # of one text: each is a whole text to decode and send


def generate(id_: int, model: Served, request: GenerateRequest) -> Generate:
    source, tokens = _prompt(model, request)
    _check_grammar(request)
    return Generate(
        id=id_,
        model=model.name,
        tokens=tokens,
        max_new_tokens=_new_tokens(model, request.max_new_tokens, len(tokens)),
        sampling=_sampling(model, request),
        stop_tokens=sorted({*request.stop_tokens, *(() if request.ignore_eos else model.tokenizer.eos_ids)}),
        standing=_standing(request.terms),
        alternatives=request.alternatives,
        prompt_alternatives=request.prompt_alternatives,
        grammar=request.grammar,
        source=source,
        beams=request.beams,
        lora=model.lora,
    )


def _prompt(model: Served, request: GenerateRequest) -> tuple[tuple[int, ...], list[int]]:
    """What an encoder reads, if there is one, and what the decoder goes on with."""
    if model.card.source_tokens is not None:
        source = read_source(model, request)
        _check_vocabulary(model, source)
        return source, begin(model, request)
    _refuse_languages(request)
    tokens = _tokens(model, request.prompt, add_special_tokens=request.add_special_tokens)
    return (), tokens if request.truncate is None else tokens[-request.truncate :]


def _refuse_languages(request: GenerateRequest) -> None:
    for parameter, code in (("src_lang", request.source_language), ("tgt_lang", request.target_language)):
        if code is not None:
            raise InvalidRequest(
                f"`{parameter}` cannot be given: this model is no translator", parameter=parameter
            )


def _check_grammar(request: GenerateRequest) -> None:
    if request.grammar is None:
        return
    check(request.grammar)
    if request.beams is not None:
        raise InvalidRequest("a grammar and `num_beams` exclude each other", parameter="num_beams")
    if request.ignore_eos:
        raise InvalidRequest("a grammar and `ignore_eos` exclude each other", parameter="ignore_eos")


def _new_tokens(model: Served, asked: int | None, prompt_tokens: int) -> int:
    """How many there may be: as asked, or as many as the context holds."""
    room = model.max_tokens - prompt_tokens
    if room < 0 or (room == 0 and asked != 0):
        raise ContextTooLong(tokens=prompt_tokens, limit=model.max_tokens - 1)
    if asked is not None and asked > room:
        if model.card.source_tokens is not None:
            raise AnswerTooLong(new_tokens=asked, limit=room)
        raise ContextTooLong(tokens=prompt_tokens, limit=model.max_tokens, new_tokens=asked)
    return room if asked is None else asked


def _standing(terms: Terms) -> Standing:
    deadline = None if terms.timeout_s is None else time.monotonic() + terms.timeout_s
    salt = f"{len(terms.tenant)}:{terms.tenant}{terms.cache_salt}".encode()
    return Standing(tenant=terms.tenant, priority=terms.priority, deadline=deadline, salt=salt)


def _sampling(model: Served, request: GenerateRequest) -> Sampling:
    """The parameters as tokens: what was given as strings, resolved; and every id within the vocabulary."""
    chosen = request.sampling
    _check_ids(model, "logit_bias", [token for token, _ in chosen.logit_bias])
    _check_ids(model, "allowed_token_ids", chosen.allowed_tokens or ())
    _check_ids(model, "stop_token_ids", request.stop_tokens)
    bad_words = (*chosen.bad_words, *_bad_words(model.tokenizer, request.bad_words))
    dry = chosen.dry
    if dry is not None:
        dry = replace(dry, breakers=_breakers(model.tokenizer, request.dry_breakers))
    chosen = replace(chosen, bad_words=bad_words, dry=dry)
    return chosen if model.card.source_tokens is None else in_character(model, request, chosen)


def _check_ids(model: Served, parameter: str, ids: Sequence[int]) -> None:
    last = model.card.vocab_size - 1
    if ids and not 0 <= min(ids) <= max(ids) <= last:
        raise InvalidRequest(f"`{parameter}` token ids must be between 0 and {last}", parameter=parameter)


def _bad_words(tokenizer: Tokenizer, words: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Each as it is spelled at the start of a text, and after a space."""
    for word in words:
        spellings = dict.fromkeys(
            tuple(tokenizer.encode(text, add_special_tokens=False)) for text in (word, " " + word.lstrip())
        )
        yield from filter(None, spellings)


def _breakers(tokenizer: Tokenizer, strings: Sequence[str]) -> tuple[int, ...]:
    """The last token of each string as it is spelled alone and after a letter."""
    ends = set[int]()
    for string in strings:
        for text in (string, "a" + string):
            ends.update(tokenizer.encode(text, add_special_tokens=False)[-1:])
    return tuple(sorted(ends))


def fill_mask(id_: int, model: Served, request: FillMaskRequest) -> FillMask:
    mask = model.tokenizer.mask_id
    tokens = _tokens(model, request.text, add_special_tokens=True)
    if len(tokens) > model.max_tokens:
        raise ContextTooLong(tokens=len(tokens), limit=model.max_tokens)
    positions = tuple(i for i, token in enumerate(tokens) if token == mask)
    if not positions:
        raise NoMask(model.tokenizer.mask_token or "none")
    if len(positions) * request.top_k > MAX_CANDIDATES:
        raise RequestTooLarge(
            f"masks x `top_k` must be <= {MAX_CANDIDATES}. Given: {len(positions)} masks and {request.top_k}",
            parameter="top_k",
        )
    targets = None if request.targets is None else _target_ids(model.tokenizer, request.targets)
    work = MaskWork(positions=positions, top_k=request.top_k, targets=targets)
    standing = _standing(request.terms)
    return FillMask(
        id=id_, model=model.name, tokens=tuple(tokens), work=work, standing=standing, lora=model.lora
    )


def embed(id_: int, model: Served, request: EmbedRequest) -> Embed:
    size = model.card.embedding_size or 0
    if request.dimensions is not None and not 1 <= request.dimensions <= size:
        raise InvalidRequest(f"`dimensions` must be between 1 and {size}", parameter="dimensions")
    tokens = _tokens(model, request.text, add_special_tokens=True)
    if len(tokens) > model.max_tokens:
        if not request.truncate:
            raise ContextTooLong(tokens=len(tokens), limit=model.max_tokens)
        tokens = truncated(model, tokens, request.text, model.max_tokens, request.truncation_side)
    work = EmbedWork(normalize=request.normalize, dimensions=request.dimensions)
    standing = _standing(request.terms)
    return Embed(
        id=id_, model=model.name, tokens=tuple(tokens), work=work, standing=standing, lora=model.lora
    )


def _tokens(model: Served, text: str | Sequence[int], *, add_special_tokens: bool) -> list[int]:
    """Text as tokens; token ids as they are. Each must have a row in the model's embedding table.

    Raises EmptyInput for nothing.
    """
    if not text:
        raise EmptyInput
    if isinstance(text, str):
        tokens = model.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    else:
        tokens = list(text)
    if not tokens:
        raise EmptyInput
    _check_vocabulary(model, tokens)
    return tokens


def _check_vocabulary(model: Served, tokens: Sequence[int]) -> None:
    last = model.card.vocab_size - 1
    if not 0 <= min(tokens) <= max(tokens) <= last:
        raise InvalidRequest(f"`inputs` token ids must be between 0 and {last}", parameter="inputs")


def _target_ids(tokenizer: Tokenizer, targets: Sequence[str]) -> tuple[int, ...]:
    """Each target's token, its first one where it has several: as transformers' fill-mask pipeline does."""
    ids = dict[int, None]()
    for target in targets:
        tokens = tokenizer.encode(target, add_special_tokens=False)
        if not tokens:
            raise InvalidRequest("`targets` must be words of the model's language", parameter="targets")
        ids[tokens[0]] = None
    if not ids:
        raise InvalidRequest("`targets` must name at least one word", parameter="targets")
    return tuple(ids)

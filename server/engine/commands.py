"""From what a caller asked to what the engine process is sent: tokens, and checks that they fit.

Plain functions that tokenise, so they belong in a thread. All raise InvalidRequest or a kind of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.catalogue import Served
from server.engine.messages import Embed, FillMask, Generate
from server.errors import ContextTooLong, EmptyInput, InvalidRequest, NoMask, RequestTooLarge
from server.request import EmbedRequest, EmbedWork, FillMaskRequest, GenerateRequest, MaskWork, Side
from server.text.tokenizer import Tokenizer

MAX_CANDIDATES = 2000  # of one text: each is a whole text to decode and send


def generate(id_: int, model: Served, request: GenerateRequest) -> Generate:
    tokens = _tokens(model, request.prompt, add_special_tokens=request.add_special_tokens)
    if request.truncate is not None:
        tokens = tokens[-request.truncate :]
    room = model.max_tokens - len(tokens)
    if room < 1:
        raise ContextTooLong(tokens=len(tokens), limit=model.max_tokens - 1)
    if request.max_new_tokens is not None and request.max_new_tokens > room:
        raise ContextTooLong(tokens=len(tokens), limit=model.max_tokens, new_tokens=request.max_new_tokens)
    return Generate(
        id=id_,
        model=model.name,
        tokens=tokens,
        max_new_tokens=request.max_new_tokens or room,
        sampling=request.sampling,
        stop_tokens=[] if request.ignore_eos else sorted(model.tokenizer.eos_ids),
    )


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
    return FillMask(id=id_, model=model.name, tokens=tuple(tokens), work=work)


def embed(id_: int, model: Served, request: EmbedRequest) -> Embed:
    size = model.card.embedding_size or 0
    if request.dimensions is not None and not 1 <= request.dimensions <= size:
        raise InvalidRequest(f"`dimensions` must be between 1 and {size}", parameter="dimensions")
    tokens = _tokens(model, request.text, add_special_tokens=True)
    if len(tokens) > model.max_tokens:
        if not request.truncate:
            raise ContextTooLong(tokens=len(tokens), limit=model.max_tokens)
        tokens = _truncated(model, request)
    work = EmbedWork(normalize=request.normalize, dimensions=request.dimensions)
    return Embed(id=id_, model=model.name, tokens=tuple(tokens), work=work)


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
    if not 0 <= min(tokens) <= max(tokens) < model.card.vocab_size:
        last = model.card.vocab_size - 1
        raise InvalidRequest(f"`inputs` token ids must be between 0 and {last}", parameter="inputs")
    return tokens


def _truncated(model: Served, request: EmbedRequest) -> list[int]:
    """The text's own tokens cut at one side, and the special ones around them kept."""
    if not isinstance(request.text, str):
        return _cut(list(request.text), model.max_tokens, request.truncation_side)
    whole = model.tokenizer.encode(request.text)
    bare = model.tokenizer.encode(request.text, add_special_tokens=False)
    places = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    start = next(places, None)
    if start is None:
        raise InvalidRequest("`truncate` is not possible with this model's tokenizer", parameter="truncate")
    kept = _cut(bare, model.max_tokens - (len(whole) - len(bare)), request.truncation_side)
    return [*whole[:start], *kept, *whole[start + len(bare) :]]


def _cut(tokens: list[int], count: int, side: Side) -> list[int]:
    return tokens[:count] if side is Side.RIGHT else tokens[len(tokens) - count :]


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

"""What must not be chosen, however probable: a bias of minus infinity, grammars, bad words and the like.

A ban that would leave no token at all is not applied. They are taken from the firmest to the slightest,
so where two contradict each other, what says how the text must be wins over what it should avoid:
a grammar over forced tokens, these over `allowed_tokens`, all of them over `bad_words`, and a grammar that
is at its end over `min_new_tokens`. No row can make the step of all others fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from server.execution.sampling.penalties import LARGEST
from server.execution.sampling.row import Row

NEVER = -torch.inf
KEPT_MASKS = 64  # of one byte a token


def restricts(row: Row) -> bool:
    """Whether the row has a bias, or forbids anything."""
    sampling = row.sampling
    return bool(
        row.allowed is not None
        or row.forced is not None
        or sampling.allowed_tokens is not None
        or sampling.logit_bias
        or sampling.bad_words
        or sampling.no_repeat_ngram
        or row.generated < sampling.min_new_tokens
    )


def restrict(scores: Tensor, row: Row) -> None:
    """Add the bias to `scores` [vocabulary], and set what is forbidden to minus infinity; in place."""
    _add_bias(scores, row)
    for forbidden in BANS:
        mask = forbidden(row, scores)
        if mask is None:
            continue
        narrowed = scores.masked_fill(mask, NEVER)
        if narrowed.max() > NEVER:
            scores.copy_(narrowed)


def _add_bias(scores: Tensor, row: Row) -> None:
    """A bias of minus infinity is a ban instead, and ids that the model does not have stand for nothing."""
    added = {token: 0.0 for token, _ in row.sampling.logit_bias if 0 <= token < len(scores)}
    for token, value in row.sampling.logit_bias:
        if token in added and value != NEVER:
            added[token] += value
    if added:
        index = torch.tensor(list(added), device=scores.device)
        values = torch.tensor(list(added.values()), dtype=torch.float64, device=scores.device)
        finite = values.clamp(-LARGEST, LARGEST).to(scores)
        scores[index] = (scores[index] + finite).clamp(-LARGEST, LARGEST)


def _outside_the_grammar(row: Row, scores: Tensor) -> Tensor | None:
    """Bit i % 32 of word i / 32 stands for token i; tokens beyond the last word are forbidden."""
    if row.allowed is None:
        return None
    words = row.allowed.to(scores.device)[:, None]
    bits = (words >> torch.arange(32, dtype=words.dtype, device=scores.device)) & 1
    allowed = bits.flatten()[: len(scores)].bool()
    return ~torch.nn.functional.pad(allowed, (0, len(scores) - len(allowed)))


def _all_but_the_forced(row: Row, scores: Tensor) -> Tensor | None:
    return None if row.forced is None else ~_mask([row.forced], scores)


def _outside_the_allowed(row: Row, scores: Tensor) -> Tensor | None:
    if row.sampling.allowed_tokens is None:
        return None
    return _all_but(row.sampling.allowed_tokens, len(scores), scores.device)


@lru_cache(maxsize=KEPT_MASKS)
def _all_but(allowed: tuple[int, ...], vocabulary: int, device: torch.device) -> Tensor:
    """Kept from token to token: the list may be as long as the vocabulary, and takes as long to read."""
    return ~_mask(allowed, torch.empty(vocabulary, device=device))


def _biased_away(row: Row, scores: Tensor) -> Tensor | None:
    tokens = [token for token, value in row.sampling.logit_bias if value == NEVER]
    return _mask(tokens, scores) if tokens else None


def _too_early_to_stop(row: Row, scores: Tensor) -> Tensor | None:
    if row.generated >= row.sampling.min_new_tokens:
        return None
    return _mask(row.stop_tokens, scores)


def _ends_of_bad_words(row: Row, scores: Tensor) -> Tensor | None:
    """The last token of each bad word whose other tokens are the end of the text."""
    text = row.tokens
    tokens = [
        word[-1]
        for word in row.sampling.bad_words
        if word and _follows(text, word[:-1], at=len(text) - len(word) + 1)
    ]
    return _mask(tokens, scores) if tokens else None


def _repeated_ngrams(row: Row, scores: Tensor) -> Tensor | None:
    """What would make the last `no_repeat_ngram` tokens equal to as many earlier ones (arXiv 1705.04304)."""
    size = row.sampling.no_repeat_ngram
    if not 0 < size <= len(row.tokens):
        return None
    return _mask(_continuations(row.tokens, size - 1), scores)


BANS: tuple[Callable[[Row, Tensor], Tensor | None], ...] = (
    _outside_the_grammar,
    _all_but_the_forced,
    _outside_the_allowed,
    _biased_away,
    _ends_of_bad_words,
    _repeated_ngrams,
    _too_early_to_stop,
)


def _continuations(text: Sequence[int], length: int) -> Iterator[int]:
    """What followed the last `length` tokens wherever they stood before."""
    end = text[len(text) - length :]
    place = 0
    while place + length < len(text):
        if length:
            try:
                place = text.index(end[0], place, len(text) - length)
            except ValueError:
                return
        if _follows(text, end, at=place):
            yield text[place + length]
        place += 1


def _follows(text: Sequence[int], run: Sequence[int], *, at: int) -> bool:
    return at >= 0 and list(text[at : at + len(run)]) == list(run)


def _mask(tokens: Iterable[int], scores: Tensor) -> Tensor:
    """[vocabulary] bool. Ids that the model does not have stand for nothing."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    known = [token for token in tokens if 0 <= token < len(scores)]
    mask[torch.tensor(known, dtype=torch.long, device=scores.device)] = True
    return mask

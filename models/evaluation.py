"""How well a model says what comes next, or what was hidden, and how near two precisions of it are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.decoder import Decoder
from models.heads import MaskedLM
from models.kv_cache import KVCache
from models.ops.paging import Paging

_CPU = torch.device("cpu")
_BLOCK_SIZE = 16
_ROWS = 128  # whose logits are held at a time
HIDDEN_EVERY = 7  # tokens of a text, one is hidden: BERT's 15 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A piece of a text, and the places in it whose tokens are to be told."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]


Score = Callable[[Window], Iterator[Tensor]]
"""What a model says of the places of a window, a part of them at a time: logits [R, vocab], float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Means over all tokens that were told; of another model, too, where it is compared with one."""

    tokens: int
    perplexity: float
    top_1: float
    top_5: float
    other_perplexity: float | None = None
    divergence: float | None = None  # Kullback, Leibler 1951: of what this one says from what the other does
    agreement: float | None = None  # of the likeliest token


def continuing(tokens: Sequence[int], *, size: int, stride: int, start: Sequence[int] = ()) -> list[Window]:
    """Windows of at most `size` tokens, `stride` apart, in which each token is told once, by all before it.

    Each begins with `start`. The first token is told only behind a start; all but those of the first window
    have at least `size - stride` before them. ValueError where that leaves a window nothing of the text that
    another has told, or nothing new.
    """
    room = size - len(start)
    if not 1 <= stride < room:
        raise ValueError(f"windows with room for {room} tokens cannot be {stride} apart")
    windows, told = list[Window](), 0 if start else 1
    while told < len(tokens):
        begin = max(0, told - (room - stride)) if windows else 0
        end = min(len(tokens), begin + room)
        places = range(told - begin + len(start), end - begin + len(start))
        windows.append(Window(tokens=(*start, *tokens[begin:end]), places=tuple(places)))
        told = end
    return windows


def hiding(
    tokens: Sequence[int], *, size: int, mask: int, around: tuple[Sequence[int], Sequence[int]]
) -> list[tuple[Window, tuple[int, ...]]]:
    """Pieces of at most `size` tokens with those `around` them, where every seventh of a text is `mask`.

    Each with the tokens that are hidden. ValueError where what is around leaves no room.
    """
    before, after = around
    windows, room = list[tuple[Window, tuple[int, ...]]](), size - len(before) - len(after)
    if room < 1:
        raise ValueError(f"{len(before) + len(after)} special tokens fill a window of {size}")
    for begin in range(0, len(tokens), room):
        piece = list(tokens[begin : begin + room])
        places = range(HIDDEN_EVERY // 2, len(piece), HIDDEN_EVERY)
        hidden = tuple(piece[place] for place in places)
        for place in places:
            piece[place] = mask
        window = Window(tokens=(*before, *piece, *after), places=tuple(len(before) + at for at in places))
        if hidden:
            windows.append((window, hidden))
    return windows


def decoder_score(decoder: Decoder, dtype: torch.dtype, *, size: int, device: torch.device = _CPU) -> Score:
    """Of windows of at most `size` tokens. `dtype`: of the cache."""
    blocks = -(-size // _BLOCK_SIZE)
    cache = KVCache(
        decoder.config,
        num_blocks=blocks,
        block_size=_BLOCK_SIZE,
        device=device,
        dtype=dtype,
        for_kernels=decoder.program is not None,
    )

    def score(window: Window) -> Iterator[Tensor]:
        count = len(window.tokens)
        paging = Paging([range(blocks)], [0], [count], _BLOCK_SIZE, device)
        tokens = torch.tensor(window.tokens, device=device)
        hidden = decoder(tokens, torch.arange(count, device=device), paging, cache)
        before = torch.tensor(window.places, device=device) - 1
        for rows in torch.split(before, _ROWS):
            yield decoder.logits(hidden.index_select(0, rows))

    return score


def masked_score(model: MaskedLM, device: torch.device = _CPU) -> Score:
    def score(window: Window) -> Iterator[Tensor]:
        tokens, rows = (torch.tensor(each, device=device) for each in (window.tokens, window.places))
        hidden = model.encoder(tokens, [len(tokens)])
        for some in torch.split(rows, _ROWS):
            yield model.head(hidden.index_select(0, some))

    return score


@torch.inference_mode()
def evaluate(
    windows: Sequence[Window],
    told: Sequence[Sequence[int]],
    score: Score,
    other: Score | None = None,
    *,
    watch: Callable[[int], None] | None = None,
) -> Evaluation:
    """`told`: the right tokens at the places of each window; `watch` hears how many were told so far.

    ValueError where there are none at all.
    """
    sums = _Sums()
    for window, right in zip(windows, told, strict=True):
        theirs = None if other is None else other(window)
        parts = torch.split(torch.tensor(right), _ROWS)
        for logits, targets in zip(score(window), parts, strict=True):
            sums.add(logits.cpu(), targets, None if theirs is None else next(theirs).cpu())
            if watch is not None:
                watch(sums.tokens)
    return sums.mean()


class _Sums:
    """Over tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        self._nats, self._other_nats, self._divergence = 0.0, 0.0, 0.0
        self._first, self._five, self._agreeing = 0, 0, 0
        self._compared = False

    def add(self, logits: Tensor, targets: Tensor, other: Tensor | None) -> None:
        """logits [R, vocab], targets [R], what another model says [R, vocab]."""
        said = logits.log_softmax(-1)
        right = said.gather(1, targets[:, None])
        rank = (said > right).sum(1)
        self.tokens += len(targets)
        self._nats -= float(right.double().sum())
        self._first += int((rank == 0).sum())
        self._five += int((rank < 5).sum())
        if other is not None:
            reference = other.log_softmax(-1)
            self._compared = True
            self._other_nats -= float(reference.gather(1, targets[:, None]).double().sum())
            self._divergence += float((reference.exp() * (reference - said)).sum(-1).double().sum())
            self._agreeing += int((said.argmax(-1) == reference.argmax(-1)).sum())

    def mean(self) -> Evaluation:
        if not self.tokens:
            raise ValueError("the text is too short: there is no token to tell")
        of = self.tokens
        return Evaluation(
            tokens=of,
            perplexity=math.exp(self._nats / of),
            top_1=self._first / of,
            top_5=self._five / of,
            other_perplexity=math.exp(self._other_nats / of) if self._compared else None,
            divergence=self._divergence / of if self._compared else None,
            agreement=self._agreeing / of if self._compared else None,
        )

"""Has a loaded model tell a text: every token from those before it, or every seventh, which is hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

from models.evaluation import (
    Evaluation,
    Score,
    Window,
    continuing,
    decoder_score,
    evaluate,
    hiding,
    masked_score,
)
from models.loading import LoadedDecoder, LoadedEncoder, LoadedSeq2Seq
from server.execution.computing import Computing, Loaded
from server.execution.device import allocating

WINDOW = 1024  # tokens, unless told
SMALLEST_WINDOW = 8

Told = tuple[list[Window], list[tuple[int, ...]]]  # and the right tokens at the places of each


class CannotTell(Exception):
    """Model, text and windows do not fit each other. The message names what does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """As the model's tokenizer has it. `around`: the special tokens that it puts before and behind a text."""

    tokens: Sequence[int]
    bos: int | None
    mask: int | None
    around: tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """What of a text the model sees at once, in tokens; None: as usual for the model. Only a decoder's are
    closer together (`stride`) than they are long."""

    size: int | None = None
    stride: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Teller:
    """A loaded model, and what computes it."""

    model: Loaded
    computing: Computing

    @property
    def precision(self) -> str:
        """What its matrices are: "int8", or what they are without `--quantize`: "bfloat16"."""
        return self.computing.quantisation(self.model) or self.computing.precision

    def score(self, size: int) -> Score:
        """Of windows of at most `size` tokens. Raises CannotTell, NotEnoughMemory."""
        device = self.computing.device
        match self.model:
            case LoadedDecoder(decoder=decoder):
                with allocating(f"keys and values of {size} tokens"):
                    return decoder_score(decoder, self.computing.dtype, size=size, device=device)
            case LoadedEncoder(masked_lm=masked_lm) if masked_lm is not None:
                return masked_score(masked_lm, device)
        raise CannotTell("the model neither continues a text nor fills masks")


def tell(
    text: Text,
    teller: Teller,
    windows: Windows,
    *,
    against: Teller | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """What the model says of the text; of the same model in another precision, too, where there is one.

    `watch` hears how many tokens were told, of how many. Raises CannotTell and NotEnoughMemory.
    """
    size = _size(teller.model, windows)
    pieces, right = _pieces(teller.model, text, size, windows.stride)
    _check_vocabulary(teller.model, pieces, right)
    total = sum(map(len, right))
    if not total:
        raise CannotTell("the text is too short: there is no token to tell")
    with ExitStack() as stack:
        tellers = (teller,) if against is None else (teller, against)
        for one in tellers:
            stack.enter_context(one.computing.threads_for(one.model))
        scores = [one.score(size) for one in tellers]
        return evaluate(pieces, right, *scores, watch=lambda told: watch(told, total) if watch else None)


def _size(model: Loaded, windows: Windows) -> int:
    if isinstance(model, LoadedSeq2Seq):
        raise CannotTell("the model neither continues a text nor fills masks")
    context = model.config.context_length
    size = min(WINDOW, context) if windows.size is None else windows.size
    if not SMALLEST_WINDOW <= size <= context:
        raise CannotTell(f"--window is {size}; this model takes {SMALLEST_WINDOW} to {context} tokens")
    return size


def _pieces(model: Loaded, text: Text, size: int, stride: int | None) -> Told:
    if isinstance(model, LoadedDecoder):
        return _continuing(text, size, stride)
    if stride is not None:
        raise CannotTell("--stride is for decoders; the pieces of a text that an encoder sees do not overlap")
    if text.mask is None:
        raise CannotTell("the model's tokenizer has no mask token")
    pieces = hiding(text.tokens, size=size, mask=text.mask, around=text.around)
    return [window for window, _ in pieces], [hidden for _, hidden in pieces]


def _continuing(text: Text, size: int, stride: int | None) -> Told:
    start = () if text.bos is None else (text.bos,)
    step, most = size // 2 if stride is None else stride, size - len(start) - 1
    if not 1 <= step <= most:
        raise CannotTell(f"--stride is {step}; with this window it may be 1 to {most}")
    windows = continuing(text.tokens, size=size, stride=step, start=start)
    return windows, [tuple(one.tokens[place] for place in one.places) for one in windows]


def _check_vocabulary(model: Loaded, windows: Sequence[Window], right: Sequence[Sequence[int]]) -> None:
    """Raises CannotTell where a tokenizer and a model do not belong together."""
    size = model.config.vocab_size
    tokens = chain.from_iterable(chain((window.tokens for window in windows), right))
    wrong = next((token for token in tokens if not 0 <= token < size), None)
    if wrong is not None:
        raise CannotTell(
            f"token {wrong} of the tokenizer is not among the {size} of the model, which count from 0: "
            "the two do not belong together"
        )

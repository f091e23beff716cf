"""Text as a masked language model reads it: tokenised, cut into windows, some tokens hidden."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

Ids = npt.NDArray[np.int32]

LONGEST_WINDOW = 128  # tokens, [CLS] and [SEP] included
SHORTEST_WINDOW = 8
_LENGTHS = (128, 128, 128, 64, 32)  # windows of a long document; a shorter document is one window


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """Ids of the tokens that frame and hide."""

    cls: int
    sep: int
    mask: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Special:
        vocab = tokenizer.get_vocab()
        return cls(cls=vocab["[CLS]"], sep=vocab["[SEP]"], mask=vocab["[MASK]"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Windows end to end, as `Encoder` takes them, and what was hidden in them."""

    tokens: Tensor  # [T]
    lengths: list[int]  # they sum to T
    rows: Tensor  # [R] where a token is hidden
    labels: Tensor  # [R] which one


def open_tokenizer(base: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_documents(path: Path, tokenizer: Tokenizer) -> list[Ids]:
    """The documents of a file, one a line, as token ids without [CLS] and [SEP]."""
    lines = path.read_text(encoding="utf-8").splitlines()
    documents: list[Ids] = []
    for start in range(0, len(lines), 1000):  # an encoding is ten times the size of its ids
        encodings = tokenizer.encode_batch(lines[start : start + 1000], add_special_tokens=False)
        documents += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
    return documents


def windows_of(document: Ids, draw: np.random.Generator | None = None) -> Iterator[Ids]:
    """Cut a document, framing tokens not yet included: evenly, or at random places with `draw`."""
    size = LONGEST_WINDOW - 2
    start = 0
    if draw is not None and len(document) > size:
        size = int(draw.choice(_LENGTHS)) - 2
        start = -int(draw.integers(size))
    for left in range(start, len(document), size):
        window = document[max(left, 0) : left + size]
        if len(window) >= SHORTEST_WINDOW - 2:
            yield window


def hide(windows: Sequence[Ids], rate: float, special: Special, draw: np.random.Generator) -> Batch:
    """Replace each token by [MASK] with probability `rate`, and at least one token in all."""
    framed = [np.concatenate(([special.cls], window, [special.sep])) for window in windows]
    tokens = np.concatenate(framed).astype(np.int64)
    hidden = draw.random(len(tokens)) < rate
    hidden[1] = hidden[1] or not hidden.any()
    hidden &= (tokens != special.cls) & (tokens != special.sep)
    labels = tokens[hidden]
    tokens[hidden] = special.mask
    return Batch(
        tokens=torch.from_numpy(tokens),
        lengths=[len(window) for window in framed],
        rows=torch.from_numpy(hidden.nonzero()[0]),
        labels=torch.from_numpy(labels),
    )


def batches_of(windows: Iterable[Ids], tokens_per_batch: int) -> Iterator[list[Ids]]:
    """Windows in order, as many as make up `tokens_per_batch`; the last batch may be smaller."""
    batch: list[Ids] = []
    size = 0
    for window in windows:
        batch.append(window)
        size += len(window) + 2
        if size >= tokens_per_batch:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

"""What a grammar needs to know of a model's tokens: what each spells, and which can stand in a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from server.grammar import GrammarError

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Tokenizer(Protocol):
    """The real one is `text.tokenizer.Tokenizer`. Ids that stand for nothing spell b""."""

    @property
    def eos_ids(self) -> frozenset[int]: ...
    def is_special(self, id_: int) -> bool: ...
    def spell(self, id_: int, *, first: bool) -> bytes: ...


class Tokens:
    """A model's vocabulary made ready to be matched: built once, then shared by all its grammars."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        """`size` is that of the model's logits, which may be more than the tokenizer's.

        Takes 150 ms for 50 thousand tokens, 50 of them in llguidance, which lets no other thread run.
        Raises GrammarError for a model that ends its texts with no token at all.
        """
        self.size = size
        self.ends = frozenset(id_ for id_ in tokenizer.eos_ids if id_ < size)
        if not self.ends:
            raise GrammarError("this model has no token that ends a text, so it cannot follow a grammar")
        special = [id_ for id_ in range(size) if tokenizer.is_special(id_) or id_ in self.ends]
        # Spelled as within a text: a token that begins one may lose a space there, never gain anything.
        spelled = [tokenizer.spell(id_, first=False) for id_ in range(size)]
        for id_ in special:
            spelled[id_] = b""
        self.textual = self.mask(id_ for id_, text in enumerate(spelled) if text)
        self.trie = _trie(spelled, special, min(self.ends))

    def mask(self, tokens: Iterable[int]) -> Tensor:
        """These tokens as bits: [size / 32, rounded up] int32, token t is bit t % 32 of word t // 32.

        Ids beyond the vocabulary are nothing.
        """
        bits = np.zeros(-(-self.size // 32) * 32, dtype=np.bool_)
        bits[[token for token in tokens if token < self.size]] = True
        return torch.from_numpy(np.packbits(bits, bitorder="little").view(np.dtype("<i4")).copy())


def _trie(spelled: Sequence[bytes], special: Sequence[int], end: int) -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    named = list(spelled)
    for id_ in special:
        named[id_] = f"<|{id_}|>".encode()  # llguidance wants some name, and no two alike
    return LLTokenizer(TokenizerWrapper(_Spellings(named, special, end)), eos_token=end)


class _Spellings:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError("no text is forced, so none is tokenised")

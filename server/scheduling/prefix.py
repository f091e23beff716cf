"""What a full block holds, named by all that came before it: how a prompt is found again.

A name is a link of a BLAKE2b chain, keyed by a secret of this process: nobody outside can choose two texts
of one name, or tell from a name what the text was. The chain starts from a salt, so that a text is found
again only by those of the same salt; what a decoder computes depends on its source, too, so the source of an
encoder-decoder is part of the salt. And a name is never trusted alone: `same` compares the tokens.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from hashlib import blake2b

SOURCE_BYTES = 32  # of its digest, which stands for a source without comparing its tokens


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A text that ends where a block does: the tokens of that block, and the prefix before it."""

    name: bytes
    tokens: tuple[int, ...]
    salt: bytes
    parent: Prefix | None

    def same(self, other: Prefix) -> bool:
        """Whether both are one text under one salt, token for token.

        Two that were found one after the other share their parents, so that one comparison is usual.
        """
        mine, others = self, other
        while mine.tokens == others.tokens and mine.salt == others.salt:
            if mine.parent is others.parent:
                return True
            if mine.parent is None or others.parent is None:
                return False
            mine, others = mine.parent, others.parent
        return False


class PrefixNames:
    """Names the prefixes of texts cut into blocks of `block_size` tokens; `name_bytes` long, 1 to 64."""

    def __init__(self, block_size: int, *, name_bytes: int = 16) -> None:
        self._block_size = block_size
        self._name_bytes = name_bytes
        self._secret = secrets.token_bytes(32)

    def extend(
        self, chain: list[Prefix], tokens: Seq[int], salt: bytes, *, source: Seq[int] = (), length: int
    ) -> None:
        """Add to `chain` what it lacks of the full blocks of the first `length` tokens.

        `source`: the encoder's tokens, where the text follows from those, too.
        """
        while (end := (len(chain) + 1) * self._block_size) <= length:
            text = tuple(tokens[end - self._block_size : end])
            chain.append(self._follow(chain[-1], text) if chain else self._first(text, salt, source))

    def _first(self, tokens: tuple[int, ...], salt: bytes, source: Seq[int]) -> Prefix:
        apart = self._with_source(salt, source) if source else salt
        return Prefix(self._name(self._hash(apart, b"salt"), tokens), tokens, apart, None)

    def _follow(self, parent: Prefix, tokens: tuple[int, ...]) -> Prefix:
        return Prefix(self._name(parent.name, tokens), tokens, parent.salt, parent)

    def _with_source(self, salt: bytes, source: Seq[int]) -> bytes:
        """The salt comes first, behind its length: no two pairs are written alike."""
        content = len(salt).to_bytes(8, "big") + salt + array("q", source).tobytes()
        return blake2b(content, digest_size=SOURCE_BYTES, key=self._secret, person=b"source").digest()

    def _name(self, before: bytes, tokens: tuple[int, ...]) -> bytes:
        return self._hash(before + array("q", tokens).tobytes(), b"block")

    def _hash(self, content: bytes, purpose: bytes) -> bytes:
        return blake2b(content, digest_size=self._name_bytes, key=self._secret, person=purpose).digest()

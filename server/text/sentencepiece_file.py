"""Reads a SentencePiece model file: its pieces, and how text is normalised before they are sought.

The file is one protocol buffer, `sentencepiece_model.proto` of Kudo & Richardson 2018. Few of its fields say
how text is cut, so they are read here by hand rather than by a library; whatever changes the cutting and is
not implemented is refused.
"""

from __future__ import annotations

import math
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

Fields = Mapping[int, list[int | bytes]]  # by field number, in the order of the file

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT = 10  # bytes
_TRIE_BLOCK = 1024  # bytes


class Algorithm(Enum):
    UNIGRAM = 1  # Kudo 2018: the most probable cut
    BPE = 2  # Sennrich et al. 2016: the best pair is merged first


class Kind(Enum):
    """What a piece is for; the numbers are the format's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # never found in text: <s>, </s>
    USER_DEFINED = 4  # found in text before any other, and never cut
    UNUSED = 5
    BYTE = 6  # <0x00> to <0xFF>, for characters that no piece has


_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    text: str  # with U+2581 for a space
    score: float = 0.0
    kind: Kind = Kind.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceModel:
    """What the file says. A piece's id is its place in `pieces`."""

    algorithm: Algorithm
    pieces: tuple[Piece, ...]
    byte_fallback: bool
    charsmap: bytes  # normalisation rules, as `tokenizers.normalizers.Precompiled` reads them; may be empty
    add_dummy_prefix: bool  # a text begins with a space
    remove_extra_whitespaces: bool


def read_piece_model(path: Path) -> PieceModel:
    """Raises ValueError naming a file that is no such model, or asks for what is not implemented."""
    try:
        return parse_piece_model(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, struct.error) as error:
        raise ValueError(f"{path.name} is not a usable SentencePiece model: {error}") from error


def parse_piece_model(data: bytes) -> PieceModel:
    """The model in a file's bytes. Raises ValueError or struct.error where it is none."""
    fields = _fields(data)
    pieces = tuple(_piece(_fields(_bytes(piece))) for piece in fields.get(1, []))
    trainer, normalizer = _message(fields, 2), _message(fields, 3)
    _refuse_what_is_missing(fields, trainer, normalizer)
    _refuse_what_is_ambiguous(pieces)
    return PieceModel(
        algorithm=_algorithm(_last(trainer, 3, 1)),
        pieces=pieces,
        byte_fallback=bool(_last(trainer, 35, 0)),
        charsmap=_charsmap(_bytes(normalizer.get(2, [b""])[-1])),
        add_dummy_prefix=bool(_last(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_last(normalizer, 4, 1)),
    )


def _algorithm(number: int) -> Algorithm:
    if number not in (1, 2):
        raise ValueError(f"its model type is {number}; supported are 1 (unigram) and 2 (BPE)")
    return Algorithm(number)


def _refuse_what_is_missing(fields: Fields, trainer: Fields, normalizer: Fields) -> None:
    if _last(trainer, 24, 0):
        raise ValueError("`treat_whitespace_as_suffix` is not implemented")
    if not _last(normalizer, 5, 1):
        raise ValueError("`escape_whitespaces` false is not implemented")
    if _message(fields, 5).get(2, [b""])[-1]:
        raise ValueError("a denormalizer is not implemented")


def _refuse_what_is_ambiguous(pieces: Sequence[Piece]) -> None:
    unknown = sum(piece.kind is Kind.UNKNOWN for piece in pieces)
    if unknown != 1:
        raise ValueError(f"it has {unknown} unknown pieces among its {len(pieces)}, not one")
    (text, count) = Counter(piece.text for piece in pieces).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} of its pieces are {text!r}")


def _charsmap(rules: bytes) -> bytes:
    """As it came: the size of a double-array trie, the trie, in blocks, then texts that end in 0.

    Raises ValueError for what has not that form, which `tokenizers` would not survive.
    """
    size = int.from_bytes(rules[:4], "little")
    if rules and not (size >= _TRIE_BLOCK and size % _TRIE_BLOCK == 0 and rules[4 + size :].endswith(b"\0")):
        raise ValueError("its normalisation rules are cut or garbled")
    return rules


def _piece(fields: Fields) -> Piece:
    text = _bytes(fields.get(1, [b""])[-1]).decode("utf-8")
    kind = _last(fields, 3, Kind.NORMAL.value)
    if not text:
        raise ValueError("one of its pieces is empty")
    if kind not in _KINDS:
        raise ValueError(f"its piece {text!r} is of the unknown type {kind}")
    (score,) = struct.unpack("<f", struct.pack("<I", _last(fields, 2, 0)))
    if not math.isfinite(score):
        raise ValueError(f"its piece {text!r} has the score {score}")
    return Piece(text=text, score=score, kind=_KINDS[kind])


def _message(fields: Fields, number: int) -> Fields:
    """A nested message; what is written in parts is one, as the format has it."""
    return _fields(b"".join(_bytes(part) for part in fields.get(number, [])))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where text is expected")
    return value


def _last(fields: Fields, number: int, default: int) -> int:
    """A number: the last one counts."""
    value = fields.get(number, [default])[-1]
    if isinstance(value, bytes):
        raise ValueError("text stands where a number is expected")
    return value


def _fields(data: bytes) -> Fields:
    """The fields of one message. Raises ValueError where the bytes are none."""
    found: defaultdict[int, list[int | bytes]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"field 0 at byte {at}")
        value, at = _value(data, at, wire)
        found[number].append(value)
    return dict(found)


def _value(data: bytes, at: int, wire: int) -> tuple[int | bytes, int]:
    if wire == _VARINT:
        return _varint(data, at)
    if wire == _BYTES:
        length, at = _varint(data, at)
        return _cut(data, at, length), at + length
    if wire in (_FIXED32, _FIXED64):
        length = 4 if wire == _FIXED32 else 8
        return int.from_bytes(_cut(data, at, length), "little"), at + length
    raise ValueError(f"wire type {wire} at byte {at}")


def _cut(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise ValueError(f"a value of {length} bytes at byte {at} goes beyond the end")
    return data[at : at + length]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first; and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"a number that does not end, at byte {at}")

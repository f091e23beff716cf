"""How tokens spell text: as bytes, so that text can grow by a token at a time.

A `tokenizers` decoder wants all tokens of a text at once. Each kind that models come with can be said a token
at a time too: every token stands for some bytes, which may depend on whether it is the first, and the text is
what these bytes are in UTF-8. Decoding at once and in a stream then agree because they are the same thing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

# Of a token's text, and whether it begins the output.
Spell = Callable[[str, bool], bytes]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLEANUPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def spelling_of(backend: Tokenizer) -> Spell:
    """The spelling that the tokenizer's decoder stands for. Raises ValueError naming one not implemented."""
    if backend.decoder is None:
        return lambda token, first: (token if first else f" {token}").encode()
    state: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return _spelling(state)


def _spelling(state: Mapping[str, Any]) -> Spell:
    kind = state["type"]
    if kind == "ByteLevel":
        return _byte_level
    if kind == "WordPiece":
        return _word_piece(state["prefix"], cleanup=state["cleanup"])
    if kind == "Metaspace":
        return _metaspace(state["replacement"], drop_first=state["prepend_scheme"] != "never")
    if kind == "Sequence":
        return _sequence(state["decoders"])
    raise ValueError(f"its decoder is {kind}; supported are ByteLevel, WordPiece, Metaspace and ByteFallback")


def _sequence(steps: list[Mapping[str, Any]]) -> Spell:
    """A list of one, or the list that stands for SentencePiece: Replace, ByteFallback, Fuse, maybe Strip."""
    if len(steps) == 1:
        return _spelling(steps[0])
    kinds = [step["type"] for step in steps]
    if kinds not in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        raise ValueError(f"its decoder is the sequence {', '.join(kinds)}, which is not implemented")
    pattern, content = steps[0]["pattern"].get("String"), steps[0]["content"]
    strip: Mapping[str, Any] = steps[3] if len(steps) == 4 else {"content": " ", "start": 0, "stop": 0}
    if pattern is None or strip["content"] != " " or strip["start"] > 1 or strip["stop"]:
        raise ValueError("its decoder replaces or strips in a way that is not implemented")
    return _sentence_piece(pattern, content, strip_first=strip["start"] == 1)


def byte_alphabet() -> dict[str, int]:
    """The 256 printable characters that byte-level BPE writes bytes as (Radford et al. 2019, GPT-2)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = byte_alphabet()


def _byte_level(token: str, first: bool) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:  # an added token, spelled as it is
        return token.encode()


def _word_piece(prefix: str, *, cleanup: bool) -> Spell:
    def spell(token: str, first: bool) -> bytes:
        if not first:
            token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
        return (clean_up(token) if cleanup else token).encode()

    return spell


def clean_up(text: str) -> str:
    """Take back the spaces that splitting at punctuation put in, as BERT's decoder does."""
    for spaced, tight in _CLEANUPS:
        text = text.replace(spaced, tight)
    return text


def _metaspace(replacement: str, *, drop_first: bool) -> Spell:
    def spell(token: str, first: bool) -> bytes:
        return token.replace(replacement, "" if first and drop_first else " ").encode()

    return spell


def _sentence_piece(pattern: str, content: str, *, strip_first: bool) -> Spell:
    def spell(token: str, first: bool) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token)
        spelled = bytes([int(byte[1], 16)]) if byte else token.replace(pattern, content).encode()
        return spelled.removeprefix(b" ") if first and strip_first else spelled

    return spell

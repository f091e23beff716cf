"""Tokenizers whose SentencePiece file only cuts, while vocab.json numbers what it cuts: Marian, M2M100.

A piece that vocab.json lacks is unknown. What no piece was found for is looked up as it stands, so that a
word of the other language, which only the JSON file knows, still has its id.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from server.text import language_codes
from server.text.families import MARIAN, Family, Settings
from server.text.json_files import read_ids
from server.text.sentencepiece import piece_backend, piece_decoder
from server.text.sentencepiece_file import read_piece_model
from server.text.special_tokens import add_special, numbered_tokens
from server.text.vocabulary import Numbering, surround


def read_numbered_pieces(folder: Path, family: Family, settings: Settings) -> tuple[Tokenizer, Numbering]:
    """Raises ValueError naming a file that is missing or broken, or what it lacks."""
    if family is MARIAN:
        numbering = _marian_numbering(folder, settings)
        backend = piece_backend(read_piece_model(folder / "source.spm"))
        backend.decoder = piece_decoder(read_piece_model(folder / "target.spm"))
    else:
        numbering = _m2m100_numbering(folder, settings)
        backend = piece_backend(read_piece_model(folder / "sentencepiece.bpe.model"))
    backend.add_tokens([token for _, token in numbered_tokens(folder, settings)])
    names = [settings[role] for role in family.names if settings[role] in numbering.read]
    rule = family.languages
    codes = [token for token in numbering.read if rule is not None and rule.pattern.fullmatch(token)]
    add_special(backend, [*names, *codes])
    surround(backend, before=None, after=settings["eos_token"])
    return backend, numbering


def _marian_numbering(folder: Path, settings: Settings) -> Numbering:
    read = _with_added(read_ids(folder / "vocab.json"), folder, settings)
    if not settings.get("separate_vocabs"):
        return _numbering(read, read, settings)
    return _numbering(read, read_ids(folder / "target_vocab.json"), settings)


def _m2m100_numbering(folder: Path, settings: Settings) -> Numbering:
    """The languages come after the last piece, in the order of the list that the folder names."""
    ids = read_ids(folder / "vocab.json")
    listed = settings.get("language_codes", "m2m100")
    if listed not in language_codes.M2M100:
        raise ValueError(f"its language_codes are {listed!r}; known are {', '.join(language_codes.M2M100)}")
    tokens = (f"__{code}__" for code in language_codes.M2M100[listed])
    ids |= {token: id_ for id_, token in enumerate(tokens, start=len(ids))}
    ids = _with_added(ids, folder, settings)
    return _numbering(ids, ids, settings)


def _with_added(ids: dict[str, int], folder: Path, settings: Settings) -> dict[str, int]:
    """With the tokens that the folder adds. Raises ValueError where they have ids that others have."""
    added = {token.content: id_ for id_, token in numbered_tokens(folder, settings)}
    for token, id_ in added.items():
        if ids.get(token, id_) != id_:
            raise ValueError(f"its token {token} is said to have the id {id_}, and would have {ids[token]}")
    both = ids | added
    if len(set(both.values())) < len(both):
        raise ValueError("two of its tokens have the same id, one of them added to vocab.json")
    return both


def _numbering(read: dict[str, int], written: dict[str, int], settings: Settings) -> Numbering:
    for role in ("unk_token", "eos_token"):
        if settings[role] not in read:
            raise ValueError(f"its vocab.json lacks {settings[role]}")
    return Numbering(read=read, written=written, unknown=settings["unk_token"])

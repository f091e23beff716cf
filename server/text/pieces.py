"""Builds the tokenizer of a folder whose vocabulary is a SentencePiece file, with the ids of its family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, normalizers

from server.text.families import Family, Ids, Settings
from server.text.sentencepiece import Prefix, piece_backend
from server.text.sentencepiece_file import Kind, Piece, PieceModel, read_piece_model
from server.text.special_tokens import add_special
from server.text.vocabulary import surround


def read_pieces(file: Path, family: Family, settings: Settings) -> Tokenizer:
    """`settings` are tokenizer_config.json's over the family's own names and options.

    Raises ValueError for a file that is none, or is not what the family starts from.
    """
    if settings.get("split_by_punct"):
        raise ValueError("`split_by_punct` is not implemented")
    ids = family.ids(settings)
    model = _arranged(read_piece_model(file), ids, settings)
    if settings.get("add_prefix_space") is False:
        model = replace(model, add_dummy_prefix=False)
    if family.commas_apart:
        model = _commas_apart(model)
    backend = piece_backend(
        model,
        prefix=Prefix.EVERY_STRETCH if settings.get("legacy", True) else Prefix.TEXT,
        first_normalizers=_normalizers(family, settings),
    )
    named = {*(settings[role] for role in family.names), *family.also_special, *ids.tail}
    special = (piece for piece in model.pieces if piece.kind is Kind.CONTROL or piece.text in named)
    add_special(backend, (piece.text for piece in special))
    if family.languages is None:
        before, after = (None if role is None else settings[role] for role in (family.before, family.after))
        surround(backend, before=before, after=after)
    return backend


def _arranged(model: PieceModel, ids: Ids, settings: Settings) -> PieceModel:
    """The pieces in the family's order. Raises ValueError where they are not what the family starts from."""
    unknown = settings["unk_token"]
    making_way = model.pieces[: ids.replaced]
    if any(piece.kind is Kind.NORMAL for piece in making_way):
        raise ValueError(f"its first {ids.replaced} pieces are not the special ones that its family has")
    own = model.pieces[ids.replaced :]
    texts = {piece.text for piece in own}
    head = [Piece(text=text, kind=_kind(text, unknown)) for text in ids.head]
    tail = [Piece(text=text, kind=Kind.CONTROL) for text in ids.tail if text not in texts]
    pieces = (*head, *own, *tail)
    if [piece.kind for piece in pieces].count(Kind.UNKNOWN) != 1:
        raise ValueError(f"its pieces do not have one unknown piece where its family has {unknown}")
    return replace(model, pieces=pieces)


def _kind(text: str, unknown: str) -> Kind:
    return Kind.UNKNOWN if text == unknown else Kind.CONTROL


def _normalizers(family: Family, settings: Settings) -> Sequence[normalizers.Normalizer]:
    """What a family does to a text before SentencePiece sees it."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace(quote, '"') for quote in family.quotes]
    if settings.get("keep_accents") is False:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case"):
        steps.append(normalizers.Lowercase())
    return steps


def _commas_apart(model: PieceModel) -> PieceModel:
    """Pieces of a number and a comma are all but never taken."""

    def lowered(piece: Piece) -> Piece:
        joined = len(piece.text) > 1 and piece.text[-1] == "," and piece.text[-2].isdigit()
        return replace(piece, score=piece.score - 100) if joined else piece

    return replace(model, pieces=tuple(lowered(piece) for piece in model.pieces))

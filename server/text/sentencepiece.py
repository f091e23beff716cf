"""Builds the backend of a SentencePiece model, so that it cuts text as SentencePiece itself does.

SentencePiece normalises a text as a whole, writes its spaces as U+2581, puts one before it, and cuts what
comes out (Kudo & Richardson 2018). `tokenizers` has all of these parts; two of them differ from the original
in what they do to marks and to spaces, and are made up for here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from server.text.sentencepiece_file import Algorithm, Kind, Piece, PieceModel

SPACE = "\u2581"

_CERTAIN = -0.1  # the score of the user's own words: others have the logarithms of small probabilities
_NEVER = 1000.0  # how far below the least probable piece stands what no text is to be cut into
_APART = "\ufdd0"  # a noncharacter: no text has it
_BEFORE_MARKS = Regex("(?<=[\\s\\S])(?=[\\p{M}\u200c\u200d\U0001f3fb-\U0001f3ff])|(?<=\\r)(?=\\n)")


class Prefix(Enum):
    """What gets the space that texts begin with, where the model asks for one."""

    EVERY_STRETCH = "always"  # the text, and what comes after a special token within it
    TEXT = "first"


def piece_backend(
    model: PieceModel,
    *,
    prefix: Prefix = Prefix.EVERY_STRETCH,
    first_normalizers: Sequence[normalizers.Normalizer] = (),
) -> Tokenizer:
    """A backend with the model's own ids and no special tokens. Raises ValueError for what it cannot be."""
    backend = Tokenizer(_unigram(model) if model.algorithm is Algorithm.UNIGRAM else _bpe(model))
    backend.normalizer = normalizers.Sequence([*first_normalizers, *_normalizers(model)])
    backend.pre_tokenizer = _spaces(model, prefix)
    backend.decoder = piece_decoder(model)
    backend.add_tokens(_frozen(model, backend.normalizer))
    return backend


def _unigram(model: PieceModel) -> models.Unigram:
    """Kudo 2018. The user's own words are all but certain; what is no text is taken where all else fails."""
    normal = [piece.score for piece in model.pieces if piece.kind is Kind.NORMAL]
    if not normal:
        raise ValueError("it has no pieces to cut text into")
    least = min(normal)

    def score(piece: Piece) -> float:
        if piece.kind is Kind.USER_DEFINED:
            return _CERTAIN
        return piece.score if piece.kind is Kind.NORMAL else least - _NEVER

    unknown = [piece.kind for piece in model.pieces].index(Kind.UNKNOWN)
    scored = [(piece.text, score(piece)) for piece in model.pieces]
    return models.Unigram(scored, unk_id=unknown, byte_fallback=model.byte_fallback)


def _bpe(model: PieceModel) -> models.BPE:
    """Sennrich et al. 2016, over characters."""
    if any(piece.kind is Kind.UNUSED for piece in model.pieces):
        raise ValueError("BPE with unused pieces is not implemented")
    ids = {piece.text: id_ for id_, piece in enumerate(model.pieces)}
    merges = merges_of({piece.text: piece.score for piece in model.pieces if piece.kind is Kind.NORMAL})
    (unknown,) = (piece.text for piece in model.pieces if piece.kind is Kind.UNKNOWN)
    return models.BPE(
        vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback
    )


def merges_of(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the best piece first, as SentencePiece would."""
    merges = [
        (score, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1]), -len(merge[2])))
    return [(left, right) for _, left, right in merges]


def _normalizers(model: PieceModel) -> Iterable[normalizers.Normalizer]:
    if model.charsmap:
        yield from _charsmap(model.charsmap)
    if model.remove_extra_whitespaces:
        yield normalizers.Replace(Regex(" {2,}"), " ")
        # Sought from where a run of spaces begins, so that each is looked at once.
        yield normalizers.Replace(Regex(rf"\A +|(?<![ {SPACE}])[ {SPACE}]+\z"), "")
    yield normalizers.Replace(" ", SPACE)


def _charsmap(charsmap: bytes) -> Iterable[normalizers.Normalizer]:
    """The model's own rules, by which a character becomes others.

    `tokenizers` looks them up for a letter with its marks as one, and then loses the marks: here they stand
    apart. Rules that join a letter and its marks are Unicode's own, so normal form C stands in for these.
    """
    rules = normalizers.Precompiled(charsmap)
    composes = rules.normalize_str("e\u0301") == "\u00e9"
    if composes:
        yield normalizers.NFC()
    yield normalizers.Replace(_BEFORE_MARKS, _APART)
    yield rules
    if composes:
        yield normalizers.NFC()  # the marks of half-width kana, which the rules have just made ones: U+FF9E
    yield normalizers.Replace(_APART, "")


def _spaces(model: PieceModel, prefix: Prefix) -> pre_tokenizers.PreTokenizer:
    """The space before a text, and cuts at every space where no piece goes across one: words are cached.

    `Metaspace` puts none where there is one; as spaces are U+2581 by now, a plain one never is.
    """
    words = {piece.text for piece in model.pieces if piece.kind in (Kind.NORMAL, Kind.USER_DEFINED)}
    apart = SPACE in words and not any(SPACE in word[1:] for word in words)
    steps = [pre_tokenizers.Metaspace(SPACE, "never", split=apart)]
    if model.add_dummy_prefix:
        steps.insert(0, pre_tokenizers.Metaspace(" ", prefix.value, split=False))
    return pre_tokenizers.Sequence(steps)


def piece_decoder(model: PieceModel) -> decoders.Decoder:
    """How the model's pieces are put together into a text."""
    if not model.byte_fallback:
        return decoders.Metaspace(SPACE, "always" if model.add_dummy_prefix else "never")
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if model.add_dummy_prefix else steps)


def _frozen(model: PieceModel, normalizer: normalizers.Normalizer) -> list[AddedToken]:
    """The user's own words that the model would not find: all of BPE's, and those that rules would change."""
    words = [piece.text for piece in model.pieces if piece.kind is Kind.USER_DEFINED]
    within = {word: f"x{word}x" for word in words}  # at the ends of a text, spaces may be taken away
    changed = {word for word, text in within.items() if normalizer.normalize_str(text) != text}
    if model.algorithm is Algorithm.UNIGRAM:
        words = [word for word in words if word in changed]
    return [AddedToken(word, normalized=word not in changed, special=False) for word in words]

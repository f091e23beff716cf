"""Tokenizers of folders with vocab.txt: WordPiece (Wu et al. 2016) as BERT has it (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from server.text.special_tokens import known_names
from server.text.vocabulary import surround

_NAMES = {
    role: f"[{role[:-6].upper()}]"
    for role in ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
}


def read_word_pieces(
    path: Path, config: Mapping[str, Any], stated: Mapping[str, str]
) -> tuple[Tokenizer, dict[str, str]]:
    """The backend, and its special tokens by role. Raises what `tokenizers` raises."""
    names = {**_NAMES, **stated}
    lines = (path / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids = {token.rstrip("\r"): id_ for id_, token in enumerate(lines) if token or id_ < len(lines) - 1}
    backend = Tokenizer(models.WordPiece(vocab=ids, unk_token=names["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    names = known_names(backend, names)
    surround(backend, before=names["cls_token"], after=names["sep_token"])
    return backend, names

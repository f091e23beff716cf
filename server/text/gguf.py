"""Builds the tokenizer that a GGUF file describes in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from server.text.errors import TokenizerUnusable
from server.text.gguf_metadata import read_metadata
from server.text.presplit import LLAMA3_LIKE, presplit
from server.text.sentencepiece import SPACE, merges_of
from server.text.vocabulary import Vocabulary, surround

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # of `tokenizer.ggml.token_type`

_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "sep_token": "seperator_token_id",  # the format's own spelling
    "mask_token": "mask_token_id",
}
_ENDINGS = ("eos_token_id", "eot_token_id", "eom_token_id")


def read_gguf(path: Path) -> Vocabulary:
    """Raises TokenizerUnusable naming the file, and what of it is not implemented or broken."""
    metadata = read_metadata(path)
    facts = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    try:
        backend = _backend(facts)
        _add_tokens(backend, facts)
        names = _names(facts)
        _surround(backend, facts, names)
    except KeyError as error:
        raise TokenizerUnusable(path, f"its metadata lacks tokenizer.ggml.{error.args[0]}") from error
    # `tokenizers` raises bare Exceptions for vocabularies that do not fit together.
    except Exception as error:
        raise TokenizerUnusable(path, str(error)) from error
    return Vocabulary(
        backend=backend,
        names=names,
        stop_ids=frozenset(facts[key] for key in _ENDINGS if key in facts),
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _backend(facts: Mapping[str, Any]) -> Tokenizer:
    kind = facts["model"]
    if kind == "gpt2":
        return _byte_level(facts)
    if kind == "llama":
        return _sentence_piece(facts)
    if kind == "bert":
        return _word_piece(facts)
    raise ValueError(f"its model is {kind!r}; supported are gpt2, llama and bert")


def _byte_level(facts: Mapping[str, Any]) -> Tokenizer:
    """BPE over bytes (Radford et al. 2019)."""
    name = facts.get("pre", "default")
    merges = [_pair(merge) for merge in facts["merges"]]
    ids = {token: id_ for id_, token in enumerate(facts["tokens"])}
    backend = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=name in LLAMA3_LIKE))
    backend.pre_tokenizer = presplit(name)
    backend.decoder = decoders.ByteLevel()
    return backend


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _sentence_piece(facts: Mapping[str, Any]) -> Tokenizer:
    """BPE over characters, bytes where there is no token for one (Kudo & Richardson 2018)."""
    ids = {token: id_ for id_, token in enumerate(facts["tokens"])}
    unknown = facts["tokens"][facts["unknown_token_id"]] if "unknown_token_id" in facts else None
    merges = merges_of(dict(zip(facts["tokens"], facts["scores"], strict=True)))
    bpe = models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(bpe)
    prefixed = facts.get("add_space_prefix", True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="first" if prefixed else "never", split=False
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return backend


def _word_piece(facts: Mapping[str, Any]) -> Tokenizer:
    """WordPiece (Wu et al. 2016), uncased: GGUF files carry no other. Words begin with U+2581 there."""
    ids = {_as_word_piece(token): id_ for id_, token in enumerate(facts["tokens"])}
    unknown = facts["tokens"][facts.get("unknown_token_id", 100)]
    backend = Tokenizer(models.WordPiece(vocab=ids, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _as_word_piece(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix(SPACE) if token.startswith(SPACE) else f"##{token}"


def _add_tokens(backend: Tokenizer, facts: Mapping[str, Any]) -> None:
    """Those that text is never cut within: control tokens, which are special, and the user's own."""
    types = facts.get("token_type") or [_NORMAL] * len(facts["tokens"])
    added = [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(facts["tokens"], types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    backend.add_special_tokens([token for token in added if token.special])
    backend.add_tokens([token for token in added if not token.special])
    roles = [AddedToken(name, normalized=False, special=True) for name in _names(facts).values()]
    backend.add_special_tokens(roles)


def _names(facts: Mapping[str, Any]) -> dict[str, str]:
    tokens = facts["tokens"]
    return {role: tokens[facts[key]] for role, key in _ROLES.items() if 0 <= facts.get(key, -1) < len(tokens)}


def _surround(backend: Tokenizer, facts: Mapping[str, Any], names: Mapping[str, str]) -> None:
    if facts["model"] == "bert":
        cls = names.get("cls_token", names.get("bos_token", "[CLS]"))
        surround(backend, before=cls, after=names.get("sep_token", "[SEP]"))
        return
    always = facts["model"] == "llama" or facts.get("pre") in LLAMA3_LIKE
    before = names.get("bos_token") if facts.get("add_bos_token", always) else None
    after = names.get("eos_token") if facts.get("add_eos_token", False) else None
    if before or after:
        surround(backend, before=before, after=after)

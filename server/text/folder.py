"""Builds the tokenizer of a Hugging Face folder: tokenizer.json, or the older vocabulary files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from server.text.errors import TokenizerUnusable
from server.text.vocabulary import Vocabulary, id_of, surround

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")

_BERT = {
    role: f"[{role[:-6].upper()}]"
    for role in ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
}
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}


def read_folder(path: Path) -> Vocabulary:
    """Raises TokenizerUnusable naming the file at fault."""
    config = _read(path / "tokenizer_config.json")
    names = _names(config) or _names(_read(path / "special_tokens_map.json"))
    try:
        if (path / "tokenizer.json").is_file():
            backend = Tokenizer.from_file(str(path / "tokenizer.json"))
            names = _known(backend, names)
            _follow_config(backend, config, names)
        else:
            backend, names = _from_vocabulary_files(path, config, names)
    except TokenizerUnusable:
        raise
    except Exception as error:  # `tokenizers` raises bare Exceptions
        raise TokenizerUnusable(path, str(error)) from error
    # A tokenizer is shared by every kind of request; what is cut or padded is each request's own affair.
    backend.no_truncation()
    backend.no_padding()
    return Vocabulary(
        backend=backend,
        names=names,
        stop_ids=_stop_ids(path, backend, names),
        chat_template=_chat_template(path, config),
        cleans_up=bool(config.get("clean_up_tokenization_spaces"))
        and not isinstance(backend.model, models.BPE),
    )


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerUnusable(path.parent, f"{path.name} is not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise TokenizerUnusable(path.parent, f"{path.name} is not a JSON object")
    return content


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by role. They are strings, or objects with more to say."""
    found = {role: config.get(role) for role in ROLES}
    spelled = {role: token["content"] if isinstance(token, dict) else token for role, token in found.items()}
    return {role: token for role, token in spelled.items() if isinstance(token, str)}


def _known(backend: Tokenizer, names: Mapping[str, str]) -> dict[str, str]:
    """The names that the vocabulary has, and a mask token that nobody named but that is there."""
    known = {role: token for role, token in names.items() if backend.token_to_id(token) is not None}
    added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    for mask in ("[MASK]", "<mask>"):
        if "mask_token" not in known and added.get(mask):
            known["mask_token"] = mask
    special = [AddedToken(token, normalized=False, special=True) for token in known.values()]
    backend.add_special_tokens([token for token in special if token.content not in added])
    return known


def _follow_config(backend: Tokenizer, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """tokenizer_config.json may say that a text begins with BOS, or does not, against tokenizer.json."""
    bos, eos = names.get("bos_token"), names.get("eos_token")
    if bos is None or ("add_bos_token" not in config and "add_eos_token" not in config):
        return
    around = backend.encode("").tokens
    before = config.get("add_bos_token", bos in around[:1])
    after = config.get("add_eos_token", eos in around[-1:] and len(around) > bool(before))
    if around != [*([bos] if before else []), *([eos] if after else [])]:
        surround(backend, before=bos if before else None, after=eos if after else None)


def _from_vocabulary_files(
    path: Path, config: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[Tokenizer, dict[str, str]]:
    if (path / "vocab.txt").is_file():
        return _bert(path, config, {**_BERT, **names})
    if not ((path / "vocab.json").is_file() and (path / "merges.txt").is_file()):
        raise TokenizerUnusable(
            path, "it has no tokenizer.json, no vocab.txt, and not both vocab.json and merges.txt"
        )
    vocabulary = _read(path / "vocab.json")
    if "<mask>" in vocabulary:
        return _roberta(path, config, {**_ROBERTA, **names})
    return _gpt2(path, config, {**_GPT2, **names})


def _bert(path: Path, config: Mapping[str, Any], names: dict[str, str]) -> tuple[Tokenizer, dict[str, str]]:
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
    names = _known(backend, names)
    surround(backend, before=names["cls_token"], after=names["sep_token"])
    return backend, names


def _byte_level(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    backend = Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return backend


def _gpt2(path: Path, config: Mapping[str, Any], names: dict[str, str]) -> tuple[Tokenizer, dict[str, str]]:
    backend = _byte_level(path, config)
    names = _known(backend, names)
    if config.get("add_bos_token"):
        surround(backend, before=names["bos_token"], after=None)
    return backend, names


def _roberta(
    path: Path, config: Mapping[str, Any], names: dict[str, str]
) -> tuple[Tokenizer, dict[str, str]]:
    backend = _byte_level(path, config)
    # The mask takes the space before it along, as a word would.
    backend.add_special_tokens([AddedToken(names["mask_token"], lstrip=True, normalized=False, special=True)])
    names = _known(backend, names)
    backend.post_processor = processors.RobertaProcessing(
        (names["sep_token"], id_of(backend, names["sep_token"])),
        (names["cls_token"], id_of(backend, names["cls_token"])),
        trim_offsets=True,
        add_prefix_space=config.get("add_prefix_space", False),
    )
    return backend, names


def _stop_ids(path: Path, backend: Tokenizer, names: Mapping[str, str]) -> frozenset[int]:
    """generation_config.json's, else config.json's, and the tokenizer's own end of text."""
    stated = _read(path / "generation_config.json").get("eos_token_id")
    if stated is None:
        stated = _read(path / "config.json").get("eos_token_id")
    listed = stated if isinstance(stated, list) else [stated]
    ids = {id_ for id_ in listed if isinstance(id_, int)}
    if "eos_token" in names:
        ids.add(id_of(backend, names["eos_token"]))
    return frozenset(ids)


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    """A file of its own wins over tokenizer_config.json; of several by name, "default" does."""
    for file in (path / "chat_template.jinja", path / "additional_chat_templates" / "default.jinja"):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    stated = config.get("chat_template", _read(path / "chat_template.json").get("chat_template"))
    if isinstance(stated, list):
        stated = {entry["name"]: entry["template"] for entry in stated}.get("default")
    return stated if isinstance(stated, str) else None

"""Tokens with a meaning: which a folder names, which it adds, and how a backend learns of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from server.text.json_files import read_ids, read_object

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")

_LISTS = ("additional_special_tokens", "extra_special_tokens")  # before transformers 5, and since
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def stated_names(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by role, as tokenizer_config.json has them, else special_tokens_map.json."""
    return _names(config) or _names(read_object(folder / "special_tokens_map.json"))


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """They are strings, or objects with more to say."""
    found = {role: config.get(role) for role in ROLES}
    spelled = {role: token["content"] if isinstance(token, dict) else token for role, token in found.items()}
    return {role: token for role, token in spelled.items() if isinstance(token, str)}


def known_names(backend: Tokenizer, names: Mapping[str, str]) -> dict[str, str]:
    """The names that the vocabulary has, and a mask token that nobody named but that is there."""
    known = {role: token for role, token in names.items() if backend.token_to_id(token) is not None}
    added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    for mask in ("[MASK]", "<mask>"):
        if "mask_token" not in known and added.get(mask):
            known["mask_token"] = mask
    special = [AddedToken(token, normalized=False, special=True) for token in known.values()]
    backend.add_special_tokens([token for token in special if token.content not in added])
    return known


def add_stated_tokens(backend: Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
    """Add what the folder's JSON files add. Raises ValueError where an id is not the one that they state."""
    numbered = sorted(numbered_tokens(folder, config), key=lambda entry: entry[0])
    for _, token in numbered:
        backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
    stated = {token.content: id_ for id_, token in numbered}
    for content, id_ in stated.items():
        found = backend.token_to_id(content)
        if found != id_:
            raise ValueError(f"its token {content} is said to have the id {id_}, and would have {found}")
    add_special(backend, (token for token in _listed(folder, config) if token not in stated))


def add_special(backend: Tokenizer, tokens: Iterable[str]) -> None:
    """Let these be special; those that have no id get the next ones."""
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])


def numbered_tokens(folder: Path, config: Mapping[str, Any]) -> list[tuple[int, AddedToken]]:
    """Tokens that a folder's JSON files add, with their ids. Raises ValueError.

    From tokenizer_config.json, else from the older added_tokens.json, where special is what has a name.
    """
    stated = config.get("added_tokens_decoder")
    if isinstance(stated, dict):
        return [(int(id_), _added(token)) for id_, token in stated.items()]
    if not (folder / "added_tokens.json").is_file():
        return []
    special = {*stated_names(folder, config).values(), *_listed(folder, config)}
    return [
        (id_, AddedToken(token, normalized=False, special=token in special))
        for token, id_ in read_ids(folder / "added_tokens.json").items()
    ]


def _added(token: Any) -> AddedToken:
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        raise ValueError(f"tokenizer_config.json: `added_tokens_decoder` has {token!r} without its content")
    flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
    return AddedToken(token["content"], special=bool(token.get("special")), **flags)


def _listed(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Special tokens without a role."""
    tokens: list[Any] = []
    for source in (config, read_object(folder / "special_tokens_map.json")):
        for key in _LISTS:
            listed = source.get(key) or []
            tokens += listed.values() if isinstance(listed, dict) else listed
    spelled = [token["content"] if isinstance(token, dict) else token for token in tokens]
    return list(dict.fromkeys(token for token in spelled if isinstance(token, str)))

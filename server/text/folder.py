"""Builds the tokenizer of a Hugging Face folder: tokenizer.json, or the vocabulary files of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from server.text.byte_level import read_byte_level
from server.text.errors import TokenizerUnusable
from server.text.families import Family, Settings, family_of, supported_classes
from server.text.json_files import read_object
from server.text.languages import Languages, Place, find_languages
from server.text.numbered_pieces import read_numbered_pieces
from server.text.pieces import read_pieces
from server.text.special_tokens import ROLES, add_special, add_stated_tokens, known_names, stated_names
from server.text.vocabulary import Numbering, Vocabulary, surround
from server.text.word_piece import read_word_pieces


def read_folder(path: Path) -> Vocabulary:
    """Raises TokenizerUnusable naming the file at fault."""
    try:
        return _read(path)
    except TokenizerUnusable:
        raise
    except Exception as error:  # `tokenizers` raises bare Exceptions
        raise TokenizerUnusable(path, str(error)) from error


def _read(path: Path) -> Vocabulary:
    config = read_object(path / "tokenizer_config.json")
    model = read_object(path / "config.json")
    vocabulary = _vocabulary(path, config, model)
    # A tokenizer is shared by every kind of request; what is cut or padded is each request's own affair.
    vocabulary.backend.no_truncation()
    vocabulary.backend.no_padding()
    return replace(
        vocabulary,
        stop_ids=_stop_ids(path, model, vocabulary),
        chat_template=_chat_template(path, config),
        cleans_up=_cleans_up(config, model, vocabulary.backend),
    )


def _vocabulary(path: Path, config: Settings, model: Settings) -> Vocabulary:
    names = stated_names(path, config)
    family = family_of(config, model)
    numbering = None
    if (path / "tokenizer.json").is_file():
        backend = Tokenizer.from_file(str(path / "tokenizer.json"))
        names = known_names(backend, names)
        _follow_config(backend, config, names)
    elif family is not None and _has_files(path, family):
        backend, names, numbering = _of_family(path, family, config, names)
    else:
        backend, names = _without_family(path, config, names)
        add_stated_tokens(backend, path, config)
    languages = _languages(family, config, backend, numbering, names)
    return Vocabulary(backend=backend, names=names, numbering=numbering, languages=languages)


def _has_files(path: Path, family: Family) -> bool:
    """Whether the folder is as its family is published, rather than of bytes and merges."""
    return not (path / "merges.txt").is_file() or (family.file is not None and (path / family.file).is_file())


def _of_family(
    path: Path, family: Family, config: Settings, names: Mapping[str, str]
) -> tuple[Tokenizer, dict[str, str], Numbering | None]:
    options = {key: value for key, value in config.items() if key not in ROLES}
    settings = {**family.options, **family.names, **options, **names}
    named = {role: settings[role] for role in (*family.names, *names)}
    if family.file is None:
        backend, numbering = read_numbered_pieces(path, family, settings)
        return backend, {role: name for role, name in named.items() if name in numbering.written}, numbering
    backend = read_pieces(path / family.file, family, settings)
    add_stated_tokens(backend, path, config)
    names = known_names(backend, named)
    _follow_config(backend, config, names)
    return backend, names, None


def _without_family(
    path: Path, config: Settings, names: Mapping[str, str]
) -> tuple[Tokenizer, dict[str, str]]:
    if (path / "vocab.txt").is_file():
        return read_word_pieces(path, config, names)
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return read_byte_level(path, config, names)
    pieces = [*path.glob("*.model"), *path.glob("*.spm")]
    if pieces:
        stated = config.get("tokenizer_class", "not stated")
        raise ValueError(
            f"{pieces[0].name} is read for {supported_classes()}; its tokenizer_class is {stated}"
        )
    raise ValueError("it has no tokenizer.json, no vocab.txt, and not both vocab.json and merges.txt")


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


def _languages(
    family: Family | None,
    config: Settings,
    backend: Tokenizer,
    numbering: Numbering | None,
    names: Mapping[str, str],
) -> Languages | None:
    """Those of the family, whichever file the vocabulary came from."""
    if family is None or family.languages is None:
        return None
    ids = backend.get_vocab() if numbering is None else numbering.read
    eos = names.get("eos_token", family.names["eos_token"])
    if eos not in ids:
        raise ValueError(f"its vocabulary lacks {eos}")
    rule = family.languages
    if config.get("legacy_behaviour"):  # NLLB's, when it was published
        rule = replace(rule, place=Place.SOURCE_LAST)
    found = find_languages(rule, ids, source=config.get("src_lang"), eos=ids[eos])
    if found is not None and numbering is None:
        tokens = {id_: token for token, id_ in ids.items()}
        add_special(backend, (tokens[id_] for id_ in found.ids.values()))
    return found


def _cleans_up(config: Settings, model: Settings, backend: Tokenizer) -> bool:
    """Never for text that is generated: what a stream has shown is not taken back."""
    if isinstance(backend.model, models.BPE) or model.get("is_encoder_decoder"):
        return False
    return bool(config.get("clean_up_tokenization_spaces"))


def _stop_ids(path: Path, model: Settings, vocabulary: Vocabulary) -> frozenset[int]:
    """generation_config.json's, else config.json's, and the tokenizer's own end of text."""
    stated = read_object(path / "generation_config.json").get("eos_token_id")
    if stated is None:
        stated = model.get("eos_token_id")
    listed = stated if isinstance(stated, list) else [stated]
    ids = {id_ for id_ in listed if isinstance(id_, int)}
    own = vocabulary.id_of(vocabulary.names.get("eos_token", ""))
    return frozenset(ids if own is None else {*ids, own})


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    """A file of its own wins over tokenizer_config.json; of several by name, "default" does."""
    for file in (path / "chat_template.jinja", path / "additional_chat_templates" / "default.jinja"):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    stated = config.get("chat_template", read_object(path / "chat_template.json").get("chat_template"))
    if isinstance(stated, list):
        stated = {entry["name"]: entry["template"] for entry in stated}.get("default")
    return stated if isinstance(stated, str) else None

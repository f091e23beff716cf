"""Folders as they were published before tokenizer.json, with small vocabularies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.text.pieces import BYTES, processor, train

BRACKETS = {"bos_id": -1, "eos_id": -1, "pad_id": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One family's folder: `options` are the trainer's, `config` is tokenizer_config.json's."""

    file: str
    model_type: str
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "T5": Published(
        file="spiece.model", model_type="t5", options={"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    ),
    "Pegasus": Published(
        file="spiece.model",
        model_type="pegasus",
        options={"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    ),
    "XLMRoberta": Published(file="sentencepiece.bpe.model", model_type="xlm-roberta"),
    "Camembert": Published(file="sentencepiece.bpe.model", model_type="camembert"),
    "MBart": Published(file="sentencepiece.bpe.model", model_type="mbart"),
    "MBart50": Published(file="sentencepiece.bpe.model", model_type="mbart"),
    "Nllb": Published(file="sentencepiece.bpe.model", model_type="m2m_100", options={"model_type": "bpe"}),
    "Albert": Published(
        file="spiece.model",
        model_type="albert",
        options={"unk_id": 1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"], **BRACKETS},
    ),
    "DebertaV2": Published(
        file="spm.model",
        model_type="deberta-v2",
        options={
            "unk_id": 3,
            "pad_piece": "[PAD]",
            "unk_piece": "[UNK]",
            "control_symbols": ["[CLS]", "[SEP]"],
            **BRACKETS,
        },
    ),
    "Llama": Published(
        file="tokenizer.model",
        model_type="llama",
        options={"model_type": "bpe", "split_digits": True, **BYTES},
        config={"add_bos_token": True},
    ),
    "Gemma": Published(
        file="tokenizer.model",
        model_type="gemma",
        options={
            "model_type": "bpe",
            "add_dummy_prefix": False,
            "user_defined_symbols": ["<mask>", "<start_of_turn>", "<end_of_turn>", "\u2581\u2581"],
            "pad_id": 0,
            "eos_id": 1,
            "bos_id": 2,
            "unk_id": 3,
            "bos_piece": "<bos>",
            "eos_piece": "<eos>",
            **BYTES,
        },
        config={"add_bos_token": True},
    ),
}


@cache
def _model(family: str) -> bytes:
    return train(**FAMILIES[family].options)


def sentencepiece_of(family: str) -> Any:
    return processor(_model(family))


def save_family(folder: Path, family: str, **config: Any) -> Path:
    """A folder of that family; `config` goes into its tokenizer_config.json."""
    published = FAMILIES[family]
    (folder / published.file).write_bytes(_model(family))
    _write(folder / "config.json", {"model_type": published.model_type})
    config = {"tokenizer_class": f"{family}Tokenizer"} | published.config | config
    _write(folder / "tokenizer_config.json", config)
    return folder


GERMAN = "Größe, Straße und Käse; zwölf Boxkämpfer jagen 中国 人 quer über den großen Deich."


@cache
def _marian_models() -> tuple[bytes, bytes]:
    return train(), train(*[GERMAN] * 20, GERMAN, vocab_size=400)


def save_marian(folder: Path, *, codes: Sequence[str] = (), separate: bool = False) -> Path:
    """As OPUS-MT has it: vocab.json lacks some of the source's pieces, and has the target's too."""
    source, target = _marian_models()
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    own, other = (_texts(model) for model in (source, target))
    if separate:
        _write(folder / "target_vocab.json", _numbered(["</s>", "<unk>", *other, "<pad>"]))
        other = []
    pieces = ["</s>", "<unk>", *(f">>{code}<<" for code in codes), *own[:-20], *other, "中国", "<pad>"]
    _write(folder / "vocab.json", _numbered(pieces))
    _write(folder / "config.json", {"model_type": "marian", "is_encoder_decoder": True})
    _write(
        folder / "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate}
    )
    return folder


def save_m2m100(folder: Path, **config: Any) -> Path:
    (folder / "sentencepiece.bpe.model").write_bytes(_model("Nllb"))
    _write(folder / "vocab.json", _numbered(["<s>", "<pad>", "</s>", "<unk>", *_texts(_model("Nllb"))[:-20]]))
    _write(folder / "config.json", {"model_type": "m2m_100", "is_encoder_decoder": True})
    codes = config.get("language_codes", "m2m100")
    special = [f"__{code}__" for code in ("af", "am")] if codes == "m2m100" else []
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": special} | config,
    )
    return folder


def _texts(model: bytes) -> list[str]:
    pieces = processor(model)
    return [pieces.id_to_piece(id_) for id_ in range(3, len(pieces))]


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: id_ for id_, token in enumerate(dict.fromkeys(tokens))}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))

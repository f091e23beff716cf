"""Which family a folder's tokenizer is of, and what each family makes of a SentencePiece file.

A family is data: the file, the names of its special tokens, which ids its pieces get, and what stands around
a text. Names and options are those of the published models' own `tokenizer_config.json`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.text import language_codes
from server.text.languages import LanguageRule, Place

Settings = Mapping[str, Any]  # tokenizer_config.json over the family's names


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """The order of a vocabulary: `head`, the file's pieces but its first `replaced` ones, `tail`."""

    head: tuple[str, ...] = ()
    replaced: int = 0
    tail: tuple[str, ...] = ()


def _as_in_the_file(settings: Settings) -> Ids:
    return Ids()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`before` and `after` are roles; a family with languages puts those around a text instead."""

    names: Mapping[str, str]
    file: str | None = None  # of SentencePiece; None where a JSON file numbers the pieces, or there are none
    ids: Callable[[Settings], Ids] = _as_in_the_file
    before: str | None = None
    after: str | None = None
    languages: LanguageRule | None = None
    options: Mapping[str, bool] = field(default_factory=dict)  # tokenizer_config.json's own, with defaults
    also_special: tuple[str, ...] = ()  # pieces that the file does not say are
    quotes: tuple[str, ...] = ()  # other spellings of the double quote
    commas_apart: bool = False  # a comma is cut off the number before it


_FAIRSEQ = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
_SEQ2SEQ = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_BRACKETS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}

_LOCALE = re.compile(r"([a-z]{2}_[A-Z]{2})")  # en_XX
_SCRIPT = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})")  # eng_Latn
_UNDERLINED = re.compile(r"__([a-z]{2,3})__")  # __en__
_QUOTED = re.compile(r">>(.+)<<")  # >>fra<<


def _t5(settings: Settings) -> Ids:
    """Raffel et al. 2020: the sentinels stand last, the first of them at the very end."""
    return Ids(tail=tuple(f"<extra_id_{i}>" for i in reversed(range(_count(settings, "extra_ids", 100)))))


def _count(settings: Settings, key: str, default: int) -> int:
    value = settings.get(key, default)
    if type(value) is not int or value < 0:
        raise ValueError(f"tokenizer_config.json: `{key}` is {value!r}, not a whole number of 0 or more")
    return value


def _fairseq(*tail: str) -> Callable[[Settings], Ids]:
    """The ids of fairseq, which has four tokens before SentencePiece's own where that has three."""

    def ids(settings: Settings) -> Ids:
        head = tuple(settings[role] for role in ("cls_token", "pad_token", "eos_token", "unk_token"))
        return Ids(head=head, replaced=3, tail=(*tail, settings["mask_token"]))

    return ids


def _camembert(settings: Settings) -> Ids:
    """Martin et al. 2020: fairseq's four again, before a file that has them too."""
    head = ("<s>NOTUSED", settings["pad_token"], "</s>NOTUSED", settings["unk_token"], "<unk>NOTUSED")
    return Ids(head=head, replaced=1, tail=(settings["mask_token"],))


def _pegasus(settings: Settings) -> Ids:
    """Zhang et al. 2020: tokens of pretraining come third; with `offset` 0, as in BigBird's, none do."""
    offset = _count(settings, "offset", 103)
    sentence = settings.get("mask_token_sent", "<mask_1>")
    masks = [token for token in (sentence, settings["mask_token"]) if token is not None and offset > 0]
    unused = (f"<unk_{i}>" for i in range(2, offset))
    return Ids(head=(settings["pad_token"], settings["eos_token"], *masks, *unused), replaced=2)


def _deberta(settings: Settings) -> Ids:
    return Ids(tail=(settings["mask_token"],))


T5 = Family(names=_SEQ2SEQ, file="spiece.model", ids=_t5, after="eos_token")
PEGASUS = Family(
    names=_SEQ2SEQ | {"mask_token": "<mask_2>"}, file="spiece.model", ids=_pegasus, after="eos_token"
)
XLM_ROBERTA = Family(
    names=_FAIRSEQ,
    file="sentencepiece.bpe.model",
    ids=_fairseq(),
    before="bos_token",
    after="eos_token",
)
CAMEMBERT = Family(
    names=_FAIRSEQ,
    file="sentencepiece.bpe.model",
    ids=_camembert,
    before="bos_token",
    after="eos_token",
)
ALBERT = Family(  # Lan et al. 2020, whose own code does to a text what its file does not say
    names=_BRACKETS | {"unk_token": "<unk>", "pad_token": "<pad>"},
    file="spiece.model",
    before="cls_token",
    after="sep_token",
    options={"do_lower_case": True, "keep_accents": False},
    quotes=("``", "''"),
    commas_apart=True,
)
DEBERTA = Family(
    names=_BRACKETS | {"unk_token": "[UNK]", "pad_token": "[PAD]"},
    file="spm.model",
    ids=_deberta,
    before="cls_token",
    after="sep_token",
    options={"do_lower_case": False},
)
LLAMA = Family(names=_LLAMA, file="tokenizer.model", before="bos_token", options={"legacy": False})
GEMMA = Family(
    names=_GEMMA,
    file="tokenizer.model",
    before="bos_token",
    also_special=("<start_of_turn>", "<end_of_turn>"),
)

MBART = Family(
    names=_FAIRSEQ,
    file="sentencepiece.bpe.model",
    ids=_fairseq(*language_codes.MBART),
    languages=LanguageRule(
        place=Place.SOURCE_LAST, pattern=_LOCALE, source="en_XX", short=True, target_is_the_start=True
    ),
)
MBART50 = Family(
    names=_FAIRSEQ,
    file="sentencepiece.bpe.model",
    ids=_fairseq(*language_codes.MBART50),
    languages=LanguageRule(place=Place.SOURCE_FIRST, pattern=_LOCALE, source="en_XX", short=True),
)
NLLB = Family(
    names=_FAIRSEQ,
    file="sentencepiece.bpe.model",
    ids=_fairseq(*language_codes.NLLB),
    languages=LanguageRule(place=Place.SOURCE_FIRST, pattern=_SCRIPT, source="eng_Latn"),
    options={"legacy_behaviour": False},
)
M2M100 = Family(
    names=_SEQ2SEQ | {"bos_token": "<s>"},
    languages=LanguageRule(place=Place.SOURCE_FIRST, pattern=_UNDERLINED, source="en"),
)
MARIAN = Family(
    names=_SEQ2SEQ,
    after="eos_token",
    languages=LanguageRule(place=Place.TARGET_FIRST, pattern=_QUOTED),
)

_BY_CLASS = {
    "T5": T5,
    "MT5": T5,
    "Pegasus": PEGASUS,
    "XLMRoberta": XLM_ROBERTA,
    "Camembert": CAMEMBERT,
    "Albert": ALBERT,
    "DebertaV2": DEBERTA,
    "Llama": LLAMA,
    "Gemma": GEMMA,
    "MBart": MBART,
    "MBart50": MBART50,
    "Nllb": NLLB,
    "M2M100": M2M100,
    "Marian": MARIAN,
}
_BY_MODEL = {
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "switch_transformers"), T5),
    **dict.fromkeys(("pegasus", "bigbird_pegasus"), PEGASUS),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl"), XLM_ROBERTA),
    "camembert": CAMEMBERT,
    "albert": ALBERT,
    "deberta-v2": DEBERTA,
    **dict.fromkeys(("llama", "mistral"), LLAMA),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), GEMMA),
    "mbart": MBART,
    "m2m_100": M2M100,
    "marian": MARIAN,
}
# Classes that say nothing of what they hold.
_GENERIC = ("", "PreTrained", "TokenizersBackend")


def family_of(config: Settings, model: Settings) -> Family | None:
    """By `tokenizer_class`, in tokenizer_config.json or config.json, else by the latter's `model_type`."""
    stated = config.get("tokenizer_class") or model.get("tokenizer_class") or ""
    name = str(stated).removesuffix("Fast").removesuffix("Tokenizer")
    return _BY_MODEL.get(model.get("model_type", "")) if name in _GENERIC else _BY_CLASS.get(name)


def supported_classes() -> str:
    return ", ".join(f"{name}Tokenizer" for name in sorted(_BY_CLASS))

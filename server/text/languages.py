"""The languages of a translator: tokens that say which one a text is in, or is to be put into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from server.errors import InvalidRequest

_SHOWN = 8  # languages in an error


class Place(Enum):
    """Where a translator's encoder reads a language."""

    SOURCE_LAST = "X </s> en_XX"  # mBART (Liu et al. 2020)
    SOURCE_FIRST = "en_XX X </s>"  # mBART-50 (Tang et al. 2020), M2M100 (Fan et al. 2021), NLLB (2022)
    TARGET_FIRST = ">>fra<< X </s>"  # Marian as OPUS-MT trains it (Tiedemann & Thottingal 2020)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRule:
    """What a family's languages look like: one group in `pattern` is the code within the token."""

    place: Place
    pattern: re.Pattern[str]
    source: str | None = None  # the code of a text's language, if nothing else says it
    short: bool = False  # whether the part before the underscore is accepted too
    target_is_the_start: bool = False  # the decoder starts from the target's language, and from nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """The languages of one tokenizer; `ids` in the order of their ids, by the code that requests use."""

    place: Place
    ids: Mapping[str, int]
    aliases: Mapping[str, str]  # other spellings of the codes
    source: str | None
    eos: int
    target_is_the_start: bool

    def id_of(self, code: str, *, parameter: str) -> int:
        """Raises InvalidRequest, with some of the codes that there are, first those that begin alike."""
        known = self.aliases.get(code, code)
        if known not in self.ids:
            likely = sorted(self.ids, key=lambda one: not one.lower().startswith(code[:2].lower()))
            shown = ", ".join(likely[:_SHOWN]) + (", …" if len(likely) > _SHOWN else "")
            raise InvalidRequest(
                f"`{parameter}` is not a language of this model; it has {shown}", parameter=parameter
            )
        return self.ids[known]

    def around(self, source: str | None, target: str | None) -> tuple[list[int], list[int]]:
        """The ids before and after a text that the encoder reads. Raises InvalidRequest."""
        target_ids = [] if target is None else [self.id_of(target, parameter="tgt_lang")]
        if self.place is Place.TARGET_FIRST:
            _refuse_source(source)
            return target_ids, [self.eos]
        code = self.source if source is None else source
        if code is None:
            raise InvalidRequest("`src_lang` is needed: this model has no default", parameter="src_lang")
        source_id = self.id_of(code, parameter="src_lang")
        if self.place is Place.SOURCE_LAST:
            return [], [self.eos, source_id]
        return [source_id], [self.eos]


def _refuse_source(source: str | None) -> None:
    if source is not None:
        raise InvalidRequest(
            "`src_lang` cannot be given: this model has one source language, or tells it by itself",
            parameter="src_lang",
        )


def find_languages(
    rule: LanguageRule, ids: Mapping[str, int], *, source: str | None, eos: int
) -> Languages | None:
    """Those among the tokens that look as the rule says; None where there are none."""
    tokens = sorted((token for token in ids if rule.pattern.fullmatch(token)), key=ids.__getitem__)
    if not tokens:
        return None
    codes = {token: rule.pattern.sub(r"\1", token) for token in tokens}
    aliases = {token: code for token, code in codes.items() if token != code}
    return Languages(
        place=rule.place,
        ids={code: ids[token] for token, code in codes.items()},
        aliases=aliases | (_short(codes.values()) if rule.short else {}),
        source=_source(codes, source, rule),
        eos=eos,
        target_is_the_start=rule.target_is_the_start,
    )


def _short(codes: Iterable[str]) -> dict[str, str]:
    """The part before the underscore, where one code alone begins so."""
    begun: dict[str, list[str]] = {}
    for code in codes:
        begun.setdefault(code.split("_")[0], []).append(code)
    return {short: full[0] for short, full in begun.items() if len(full) == 1 and short != full[0]}


def _source(codes: Mapping[str, str], stated: str | None, rule: LanguageRule) -> str | None:
    """What the folder states, if it is a language, else the family's own, if the vocabulary has it."""
    known = {*codes, *codes.values()}
    return next((code for code in (stated, rule.source) if code in known), None)

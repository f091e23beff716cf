"""How a token is chosen, as every dialect spells it: strict fields that become one `Sampling`.

A field that is absent, null or neutral asks for nothing. What cannot mean anything together is refused by
name; what merely has no effect (a truncation beside temperature 0, which is greedy) is what its user expects.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from server.api.biases import BiasParameters
from server.api.fields import (
    MAX_COUNT,
    MinP,
    RepetitionPenalty,
    Seed,
    Temperature,
    TopP,
    Word,
    named,
)
from server.errors import InvalidRequest
from server.request import Dry, Mirostat, Sampling, Stage

GREEDY_BELOW = 1e-5  # dividing logits by less overflows; the choice is greedy by then anyway
DRY_BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's
MAX_BREAKERS = 128


def _no_version_one(version: int) -> int:
    if version == 1:
        raise PydanticCustomError("mirostat", "1 is not there; version 2 is: give 2, or 0 for none")
    return version


def _off_or_positive(value: float) -> float:
    if value <= 0 and value not in (-1, 0):
        raise PydanticCustomError("off_or_positive", "must be strictly positive, or -1 or 0 for none")
    return value


Penalty = Annotated[float, Field(ge=-2, le=2)]
Cutoff = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Window = Annotated[int, Field(ge=-1, le=MAX_COUNT)]
StageName = Literal[
    "penalties",
    "dry",
    "temperature",
    "top_n_sigma",
    "top_k",
    "typical_p",
    "typ_p",
    "top_p",
    "min_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "xtc",
]


@dataclass(frozen=True, slots=True)
class _Knob:
    """The stage that a parameter belongs to, and the values by which it asks for nothing."""

    stage: Stage
    neutral: tuple[float, ...]


KNOBS: Mapping[str, _Knob] = {
    "repetition_penalty": _Knob(Stage.PENALTIES, (1,)),
    "presence_penalty": _Knob(Stage.PENALTIES, (0,)),
    "frequency_penalty": _Knob(Stage.PENALTIES, (0,)),
    "dry_multiplier": _Knob(Stage.DRY, (0,)),
    "temperature": _Knob(Stage.TEMPERATURE, (1,)),
    "dynatemp_range": _Knob(Stage.TEMPERATURE, (0,)),
    "top_n_sigma": _Knob(Stage.TOP_N_SIGMA, (-1, 0)),
    "top_k": _Knob(Stage.TOP_K, (-1, 0)),
    "typical_p": _Knob(Stage.TYPICAL_P, (1,)),
    "top_p": _Knob(Stage.TOP_P, (1,)),
    "min_p": _Knob(Stage.MIN_P, (0,)),
    "epsilon_cutoff": _Knob(Stage.EPSILON_CUTOFF, (0,)),
    "eta_cutoff": _Knob(Stage.ETA_CUTOFF, (0,)),
    "xtc_probability": _Knob(Stage.XTC, (0,)),
}
KEPT_BY_MIROSTAT = frozenset({Stage.PENALTIES, Stage.DRY, Stage.TEMPERATURE})
"""The other stages narrow the choice, which is what mirostat does itself."""

SAME_IN_SAMPLING = (
    "dynatemp_range",
    "dynatemp_exponent",
    "typical_p",
    "top_p",
    "min_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "xtc_probability",
    "xtc_threshold",
)


class SamplerParameters(BiasParameters):
    """Every sampler, by its names in vLLM, SGLang, TGI, llama.cpp and transformers; and the biases."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    temperature: Temperature | None = None
    """0 is greedy."""
    dynatemp_range: Annotated[float, Field(ge=0, le=100)] | None = None
    """How far the temperature moves either way with the entropy; 0: not at all."""
    dynatemp_exponent: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_COUNT)] | None = None
    """How many of the most probable tokens are kept; 0 or -1: all."""
    top_p: TopP | None = None
    min_p: MinP | None = None
    typical_p: TopP | None = Field(None, validation_alias=named("typical_p"))
    top_n_sigma: Annotated[float, Field(ge=-1, le=100), AfterValidator(_off_or_positive)] | None = None
    """Keeps logits within so many standard deviations of the largest; -1 or 0: all."""
    epsilon_cutoff: Cutoff | None = None
    eta_cutoff: Cutoff | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    mirostat: Annotated[int, Field(ge=0, le=2), AfterValidator(_no_version_one)] | None = None
    """2, or 0 for none. It replaces every sampler that narrows the choice."""
    mirostat_tau: Annotated[float, Field(gt=0, le=100)] | None = None
    """The surprise aimed at, in bits."""
    mirostat_eta: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: RepetitionPenalty | None = Field(None, validation_alias=named("repetition_penalty"))
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_last_n: Window | None = None
    """How many of the last tokens the three penalties look at; -1: all, 0: none."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = Field(
        None, validation_alias=named("no_repeat_ngram_size")
    )
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=10)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    dry_penalty_last_n: Window | None = None
    """How many of the last tokens are searched for repeats; -1: all, 0: none."""
    dry_sequence_breakers: Annotated[list[Word], Field(max_length=MAX_BREAKERS)] | None = None
    seed: Seed | None = Field(None, validation_alias=named("seed"))
    """Equal seeds give equal texts; without one, one is drawn and told."""
    sampler_order: Annotated[list[StageName], Field(max_length=len(Stage))] | None = Field(
        None, validation_alias=named("sampler_order")
    )
    """The samplers in the order in which they apply. One that is not listed is off."""

    @property
    def narrowing(self) -> list[str]:
        """The parameters that ask for something that only sampling can do."""
        asked = [name for name, knob in self._asked().items() if knob.stage not in KEPT_BY_MIROSTAT]
        asked += ["mirostat"] if self.mirostat else []
        return asked + (["dynatemp_range"] if self.dynatemp_range else [])

    @property
    def narrows(self) -> bool:
        return bool(self.narrowing)

    @property
    def breakers(self) -> tuple[str, ...]:
        """The strings at which DRY's runs break."""
        given = self.dry_sequence_breakers
        return DRY_BREAKERS if given is None else tuple(given)

    def to_sampling(self, *, temperature: float = 1.0) -> Sampling:
        """`temperature` is for a request that gives none. Without a seed, one is drawn.

        Raises InvalidRequest, naming the parameters that contradict each other.
        """
        chosen = temperature if self.temperature is None else self.temperature
        self._check_together()
        if self.dynatemp_range and chosen < GREEDY_BELOW:
            raise InvalidRequest("`dynatemp_range` needs a `temperature` above 0", parameter="dynatemp_range")
        return Sampling(
            temperature=chosen if chosen >= GREEDY_BELOW else 0.0,
            top_k=self.top_k if self.top_k and self.top_k > 0 else None,
            top_n_sigma=self.top_n_sigma if self.top_n_sigma and self.top_n_sigma > 0 else None,
            mirostat=self._mirostat(),
            dry=self._dry(),
            no_repeat_ngram=self.no_repeat_ngram_size or 0,
            logit_bias=self.biases(),
            bad_words=tuple(tuple(run) for run in self.bad_words_ids or ()),
            allowed_tokens=self.allowed_tokens,
            order=self._order(),
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            **self._given(SAME_IN_SAMPLING),
            **self._penalties(),
        )

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def _asked(self) -> dict[str, _Knob]:
        """The parameters that ask for something, and their stages."""
        return {
            name: KNOBS[name]
            for name, value in self._given(KNOBS).items()
            if value not in KNOBS[name].neutral
        }

    def _check_together(self) -> None:
        order = self._order()
        for name, knob in self._asked().items():
            if knob.stage not in order:
                raise InvalidRequest(
                    f"`{name}` is given, but `sampler_order` leaves out {knob.stage.value}", parameter=name
                )
            if self.mirostat and knob.stage not in KEPT_BY_MIROSTAT:
                raise InvalidRequest(f"`{name}` and `mirostat` exclude each other", parameter=name)

    def _order(self) -> tuple[Stage, ...]:
        if self.sampler_order is None:
            return tuple(Stage)
        order = [Stage("typical_p" if name == "typ_p" else name) for name in self.sampler_order]
        for stage in order:
            if order.count(stage) > 1:
                raise InvalidRequest(f"`sampler_order` lists {stage.value} twice", parameter="sampler_order")
        return tuple(order)

    def _mirostat(self) -> Mirostat | None:
        if not self.mirostat:
            return None
        given = self._given(("mirostat_tau", "mirostat_eta"))
        return Mirostat(**{name.removeprefix("mirostat_"): value for name, value in given.items()})

    def _dry(self) -> Dry | None:
        if not self.dry_multiplier or self.dry_penalty_last_n == 0:
            return None
        given = self._given(("dry_multiplier", "dry_base", "dry_allowed_length"))
        numbers = {name.removeprefix("dry_"): value for name, value in given.items()}
        return Dry(**numbers, window=_window(self.dry_penalty_last_n))

    def _penalties(self) -> dict[str, Any]:
        """Over a window of no tokens there is nothing to punish."""
        if self.repeat_last_n == 0:
            return {}
        given = self._given(("repetition_penalty", "presence_penalty", "frequency_penalty"))
        return given | {"penalty_window": _window(self.repeat_last_n)}


def _window(last_n: int | None) -> int | None:
    return None if last_n in (None, -1) else last_n

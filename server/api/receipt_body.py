"""A receipt as it comes back: every field that `receipts.receipt` writes, required, typed and bounded."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from server.api.beams import MAX_BEAMS, LengthPenalty
from server.api.biases import MAX_ALLOWED, MAX_BAD_WORDS, MAX_BIASES, MAX_RUN
from server.api.fields import (
    MAX_COUNT,
    MAX_SEED,
    MinP,
    ModelName,
    RepetitionPenalty,
    StopString,
    StrictBody,
    Temperature,
    Text,
    TokenId,
    TopP,
    Word,
    described,
)
from server.api.parameters import MAX_STOP_TOKENS
from server.api.receipts import VERSION, seal
from server.api.samplers import Cutoff, Penalty, Share
from server.errors import InvalidRequest
from server.request import (
    Beams,
    Dry,
    EarlyStopping,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Mirostat,
    ModelCard,
    Sampling,
    Stage,
    Terms,
)


def _in_range(seed: str) -> str:
    if not (seed.isascii() and seed.isdecimal() and len(seed) <= 20 and int(seed) <= MAX_SEED):
        raise ValueError("not a seed")
    return seed


def _known_version(value: int) -> int:
    if value != VERSION:
        raise PydanticCustomError("version", "must be {known}: no other format is known", {"known": VERSION})
    return value


def _once_each(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    if len(set(stages)) < len(stages):
        raise PydanticCustomError("repeated", "must name each stage once")
    return stages


# JSON has lists and strings where we have tuples and enums: on these, pydantic's strictness is relaxed.
LAX = Field(strict=False)
IDS = described("a list of token ids")
Ids = Annotated[tuple[TokenId, ...], LAX, IDS]
StopIds = Annotated[tuple[TokenId, ...], Field(strict=False, max_length=MAX_STOP_TOKENS), IDS]
AllowedIds = Annotated[tuple[TokenId, ...], Field(strict=False, min_length=1, max_length=MAX_ALLOWED), IDS]
Runs = Annotated[
    tuple[Annotated[Ids, Field(min_length=1, max_length=MAX_RUN)], ...],
    Field(strict=False, max_length=MAX_BAD_WORDS),
    described(f"a list of at most {MAX_BAD_WORDS} lists of token ids"),
]
Bias = Annotated[
    Annotated[float, Field(ge=-100, le=100)] | Literal[False],
    Field(union_mode="left_to_right"),  # otherwise a 0 would be false
]
Biases = Annotated[
    tuple[Annotated[tuple[TokenId, Bias], LAX], ...],
    Field(strict=False, max_length=MAX_BIASES),
    described(f"a list of at most {MAX_BIASES} pairs of a token id and a number or false"),
]
Strings = Annotated[tuple[StopString, ...], LAX, described("a list of strings")]
Words = Annotated[
    tuple[Word, ...],
    Field(strict=False, max_length=MAX_BAD_WORDS),
    described(f"a list of at most {MAX_BAD_WORDS} short strings"),
]
Stages = Annotated[
    tuple[Annotated[Stage, LAX], ...], LAX, described("a list of sampling stages"), AfterValidator(_once_each)
]
SeedText = Annotated[
    str,
    AfterValidator(_in_range),
    described("a whole number from 0 to 2**64 - 1, written as a string"),
]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
OneOrMore = Annotated[int, Field(ge=1, le=MAX_COUNT)]
UpTo100 = Annotated[float, Field(ge=0, le=100)]


class DryRecord(StrictBody):
    multiplier: UpTo100
    base: Annotated[float, Field(ge=1, le=10)]
    allowed_length: OneOrMore
    window: OneOrMore | None
    breakers: Ids


class MirostatRecord(StrictBody):
    tau: Annotated[float, Field(gt=0, le=100)]
    eta: Annotated[float, Field(gt=0, le=1)]


class SamplingRecord(StrictBody):
    """`Sampling`, field by field; none has a default here, so that a later one changes no receipt."""

    temperature: Temperature
    dynatemp_range: UpTo100
    dynatemp_exponent: UpTo100
    top_n_sigma: Annotated[float, Field(gt=0, le=100)] | None
    top_k: OneOrMore | None
    typical_p: TopP
    top_p: TopP
    min_p: MinP
    epsilon_cutoff: Cutoff
    eta_cutoff: Cutoff
    xtc_probability: Share
    xtc_threshold: Share
    mirostat: MirostatRecord | None
    repetition_penalty: RepetitionPenalty
    presence_penalty: Penalty
    frequency_penalty: Penalty
    penalty_window: OneOrMore | None
    no_repeat_ngram: Count
    dry: DryRecord | None
    logit_bias: Biases
    bad_words: Runs
    allowed_tokens: AllowedIds | None
    min_new_tokens: Count
    forced_first: TokenId | None
    forced_last: TokenId | None
    order: Stages
    seed: SeedText
    sample: Count

    def to_sampling(self) -> Sampling:
        fields = dict(self) | {
            "seed": int(self.seed),
            "logit_bias": tuple(
                (id_, -math.inf if added is False else added) for id_, added in self.logit_bias
            ),
            "dry": None if self.dry is None else Dry(**dict(self.dry)),
            "mirostat": None if self.mirostat is None else Mirostat(**dict(self.mirostat)),
        }
        return Sampling(**fields)


class GrammarRecord(StrictBody):
    kind: Annotated[GrammarKind, LAX]
    source: Text


class BeamsRecord(StrictBody):
    width: Annotated[int, Field(ge=2, le=MAX_BEAMS)]
    length_penalty: LengthPenalty
    early_stopping: Annotated[EarlyStopping, LAX]


class Parameters(StrictBody):
    sampling: SamplingRecord
    max_new_tokens: Count
    stop: Strings
    stop_tokens: StopIds
    include_stop: bool
    ignore_eos: bool
    bad_words: Words
    dry_breakers: Words
    grammar: GrammarRecord | None
    beams: BeamsRecord | None
    target_language: Word | None


class Receipt(StrictBody):
    version: Annotated[int, AfterValidator(_known_version)]
    model: ModelName
    system_fingerprint: Word
    prompt_ids: Annotated[Ids, Field(min_length=1)]
    parameters: Parameters
    output_ids: Ids
    text: Text
    finish_reason: Annotated[FinishReason, LAX]
    hash: Word

    def check_hash(self) -> None:
        """Raises InvalidRequest where the receipt is not the one that was handed out."""
        if self.hash != seal(self.model_dump(mode="json", exclude={"hash"})):
            raise InvalidRequest(
                "`receipt.hash` does not fit the rest of the receipt: something in it was changed",
                parameter="receipt.hash",
            )

    def to_request(self, card: ModelCard, *, tenant: str) -> GenerateRequest:
        """What has to be asked of `card` to get this text; where a deadline cut it, up to there.

        `tenant` is who asks for it now. Raises InvalidRequest where it bans tokens that `card` does not have.
        """
        told, grammar, beams = self.parameters, self.parameters.grammar, self.parameters.beams
        if any(max(run) >= card.vocab_size for run in told.sampling.bad_words):
            name, last = "receipt.parameters.sampling.bad_words", card.vocab_size - 1
            raise InvalidRequest(f"`{name}` token ids must be between 0 and {last}", parameter=name)
        cut = self.finish_reason is FinishReason.TIMEOUT
        return GenerateRequest(
            prompt=self.prompt_ids,
            sampling=told.sampling.to_sampling(),
            model=card.name,
            max_new_tokens=len(self.output_ids) if cut else told.max_new_tokens,
            stop=told.stop,
            stop_tokens=told.stop_tokens,
            include_stop=told.include_stop,
            ignore_eos=told.ignore_eos,
            bad_words=told.bad_words,
            dry_breakers=told.dry_breakers,
            grammar=None if grammar is None else Grammar(**dict(grammar)),
            beams=None if beams is None else Beams(**dict(beams)),
            target_language=told.target_language,
            terms=Terms(tenant=tenant),
        )

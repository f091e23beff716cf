"""The fields that request bodies share: strict types, bounds, other names, and what is not built yet."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

T = TypeVar("T")

MAX_SEED = 2**64 - 1
HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")
MAX_COUNT = 2**31 - 1  # of tokens, ids and the like: what fits the widest field that carries them
MAX_WORD_CHARACTERS = 256
MAX_SAMPLES = 128  # of one prompt: OpenAI's own bound of `n`
MAX_ALTERNATIVES = 20  # told beside each token

SAME_AS = {
    "repeat_penalty": "repetition_penalty",
    "n_predict": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_new_tokens": "min_tokens",
    "typ_p": "typical_p",
    "sampling_seed": "seed",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "samplers": "sampler_order",
    "stop_strings": "stop",
    "no_stop_trim": "include_stop_str_in_output",
    "truncate_prompt_tokens": "truncate",
}
"""Every other name of a parameter, to the one it stands for."""


def named(canonical: str, *, first: str | None = None) -> AliasChoices:
    """All names of a parameter; `first` is the one that the dialect's documentation shows."""
    names = [canonical, *(alias for alias, name in SAME_AS.items() if name == canonical)]
    return AliasChoices(*sorted(names, key=lambda name: name != (first or canonical)))


class StrictBody(BaseModel):
    """A body, or a part of one: nothing unknown, nothing coerced (`true` is no number), no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def only(*neutral: object) -> AfterValidator:
    """Accept the values that ask for nothing; refuse the rest by name until the feature exists."""

    def refuse_the_rest(value: object) -> object:
        if value is None or value in neutral:
            return value
        raise PydanticCustomError("not_supported", "is not supported yet")

    return AfterValidator(refuse_the_rest)


def described(what: str) -> WrapValidator:
    """One sentence for a union, instead of one complaint for each of its members."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("wrong_shape", "must be {what}", {"what": what}) from None

    return WrapValidator(validate)


def _encodable(value: Any) -> Any:
    """JSON can spell half a character (`\\ud800`); no tokenizer and no wire can carry one."""
    if isinstance(value, str) and HALF_CHARACTER.search(value):
        raise PydanticCustomError("half_character", "must not hold half a surrogate pair")
    return value


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ENCODABLE = BeforeValidator(_encodable)  # last in its list, so that bounds speak of characters, not of items
Text = Annotated[str, ENCODABLE]
Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD_CHARACTERS), ENCODABLE]
StopString = Annotated[str, Field(min_length=1), ENCODABLE]
TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Texts = Annotated[Text | list[Text], described("a string or a list of strings")]
TextsOrTokens = Annotated[
    Text | list[Text] | list[TokenId] | list[list[TokenId]],
    described("a string, a list of strings, a list of token ids or a list of such lists"),
]
Stop = Annotated[list[StopString], BeforeValidator(as_list)]
ModelName = Word

Temperature = Annotated[float, Field(ge=0, le=100)]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=100)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
SampleCount = Annotated[int, Field(ge=1, le=MAX_SAMPLES)]
Alternatives = Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)]


def one_or_many(value: T | list[T]) -> list[T]:
    """A lone text, or a list of them, as a list."""
    return value if isinstance(value, list) else [value]


def texts_or_tokens(value: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    """What `TextsOrTokens` accepts, as a list of texts or a list of token lists."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [value]
    return cast("list[str] | list[list[int]]", value)

"""How a text is generated where a request does not say: as the folder of the model has it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from server.api.beams import MAX_BEAMS
from server.api.fields import MAX_COUNT
from server.api.parameters import GenerationParameters
from server.errors import InvalidRequest
from server.text.generation_defaults import GenerationDefaults

USUAL_TOKENS = 256  # of an answer where nobody says how long it may be: transformers' pipelines have it so


class RewriteParameters(GenerationParameters):
    """Everything that `/generate` takes, and transformers' lengths, which count the start token."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    do_sample: bool | None = None
    max_length: Annotated[int, Field(ge=2, le=MAX_COUNT)] | None = None
    """Of the answer and the token that it follows."""
    min_length: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None

    def in_new_tokens(self) -> RewriteParameters:
        """The same with lengths in new tokens. Raises InvalidRequest for a length that is given twice."""
        most = self._one_of("max_new_tokens", "max_length")
        least = self._one_of("min_tokens", "min_length")
        lengths = {"max_new_tokens": most, "min_tokens": least, "max_length": None, "min_length": None}
        return self.model_copy(update=lengths)

    def _one_of(self, new_tokens: str, length: str) -> int | None:
        new: int | None = getattr(self, new_tokens)
        whole: int | None = getattr(self, length)
        if new is not None and whole is not None:
            raise InvalidRequest(f"`{new_tokens}` and `{length}` exclude each other", parameter=length)
        return new if whole is None else max(whole - 1, 0)

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn at random: nothing is searched then."""
        return bool(self.do_sample or self.temperature or self.narrowing)


NOTHING = RewriteParameters.model_validate({})


def fill_in(asked: RewriteParameters, defaults: GenerationDefaults, *, longest: int) -> RewriteParameters:
    """`asked`, lengths in new tokens, with the folder's `defaults` for what it leaves open.

    No answer has more than `longest` tokens unless it is asked for; nor more beams than this server follows.
    """
    usual = _lengths(defaults, longest) | _penalties(defaults)
    if not asked.draws and asked.num_beams != 1:
        usual |= _drawing(defaults) if defaults.do_sample and asked.num_beams is None else _search(defaults)
    left_open = {name: value for name, value in usual.items() if getattr(asked, name) is None}
    if asked.max_new_tokens is not None and "min_tokens" in left_open:
        left_open["min_tokens"] = min(left_open["min_tokens"], asked.max_new_tokens)
    return asked.model_copy(update={name: value for name, value in left_open.items() if value is not None})


def _lengths(defaults: GenerationDefaults, longest: int) -> dict[str, Any]:
    most, least = defaults.max_new_tokens, defaults.min_new_tokens
    if most is None:
        most = USUAL_TOKENS if defaults.max_length is None else defaults.max_length - 1
    if least is None:
        least = max((defaults.min_length or 0) - 1, 0)
    most = max(1, min(most, longest))
    return {"max_new_tokens": most, "min_tokens": min(least, most)}


def _penalties(defaults: GenerationDefaults) -> dict[str, Any]:
    return {
        "no_repeat_ngram_size": defaults.no_repeat_ngram_size,
        "repetition_penalty": defaults.repetition_penalty or None,
    }


def _search(defaults: GenerationDefaults) -> dict[str, Any]:
    if (defaults.num_beams or 1) == 1:
        return {}
    return {
        "num_beams": min(defaults.num_beams or 1, MAX_BEAMS),
        "length_penalty": defaults.length_penalty,
        "early_stopping": defaults.early_stopping,
    }


def _drawing(defaults: GenerationDefaults) -> dict[str, Any]:
    return {
        "do_sample": True,
        "temperature": defaults.temperature,
        "top_k": defaults.top_k,
        "top_p": defaults.top_p,
    }

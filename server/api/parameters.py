"""What every dialect lets a caller say about a generation, and the one way it becomes a `GenerateRequest`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import ConfigDict, Field

from server.api.beams import BeamParameters
from server.api.fields import MAX_COUNT, Stop, TokenCount, TokenId, Word, named
from server.api.samplers import SamplerParameters
from server.api.standing import StandingParameters
from server.errors import InvalidRequest
from server.request import GenerateRequest, ModelCard, Sampling

MAX_STOP_TOKENS = 128


class GenerationParameters(SamplerParameters, BeamParameters, StandingParameters):
    """The samplers, beam search, where a text ends, and how the request stands beside others."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_new_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = Field(
        None, validation_alias=named("max_new_tokens")
    )
    """Without it, as many as the context holds."""
    min_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = Field(
        None, validation_alias=named("min_tokens")
    )
    """Before so many new tokens, the text does not end, unless a grammar leaves nothing to add."""
    stop: Stop | None = Field(None, validation_alias=named("stop"))
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    include_stop_str_in_output: bool | None = Field(
        None, validation_alias=named("include_stop_str_in_output")
    )
    ignore_eos: bool | None = None
    truncate: TokenCount | None = Field(None, validation_alias=named("truncate"))
    """Keep only the last so many tokens of the prompt; the first, where an encoder reads it."""
    src_lang: Word | None = None
    """The language of the prompt, for a model that translates; its own default without one."""
    tgt_lang: Word | None = None
    """The language of the answer."""
    cache_salt: Word | None = None
    """The prompt is found in the cache only by requests with the same salt and API key."""

    def to_request(
        self,
        prompt: str | Sequence[int],
        card: ModelCard,
        *,
        tenant: str,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
    ) -> GenerateRequest:
        """`temperature` and `max_new_tokens` are the dialect's, for a request that gives none.

        What only one dialect knows (scores, grammar, special tokens) it adds with `dataclasses.replace`.
        Raises InvalidRequest, naming the parameters that contradict each other or the model.
        """
        limit = max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        beams = self.to_beams()
        sampling = self.to_sampling(temperature=temperature) if beams is None else self._searched()
        _check_ids("bad_words_ids", [token for run in sampling.bad_words for token in run], card)
        return GenerateRequest(
            prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            sampling=replace(sampling, min_new_tokens=self._least(limit, card)),
            model=card.name,
            max_new_tokens=limit,
            stop=tuple(self.stop or ()),
            stop_tokens=tuple(self.stop_token_ids or ()),
            include_stop=bool(self.include_stop_str_in_output),
            ignore_eos=bool(self.ignore_eos),
            truncate=self.truncate,
            bad_words=tuple(self.bad_words or ()),
            dry_breakers=self.breakers if sampling.dry is not None else (),
            beams=beams,
            source_language=self.src_lang,
            target_language=self.tgt_lang,
            terms=self.terms(tenant, cache_salt=self.cache_salt),
        )

    def _searched(self) -> Sampling:
        """Beam search takes the most probable: what would draw from a distribution is refused by name."""
        if self.temperature:
            raise InvalidRequest("`temperature` and `num_beams` exclude each other", parameter="temperature")
        for parameter in self.narrowing:
            raise InvalidRequest(f"`{parameter}` and `num_beams` exclude each other", parameter=parameter)
        return self.to_sampling(temperature=0.0)

    def _least(self, most: int | None, card: ModelCard) -> int:
        """How many new tokens there must be at least; never more than there may be at `most`."""
        least = self.min_tokens or 0
        if most is not None and least > most:
            raise InvalidRequest(
                f"`min_tokens` must be <= `max_new_tokens`. Given: {least} and {most}", parameter="min_tokens"
            )
        if least >= card.max_tokens:
            raise InvalidRequest(
                f"`min_tokens` must be less than {card.max_tokens} for this model. Given: {least}",
                parameter="min_tokens",
            )
        return least


def _check_ids(parameter: str, ids: Iterable[int], card: ModelCard) -> None:
    if max(ids, default=0) >= card.vocab_size:
        raise InvalidRequest(
            f"`{parameter}` token ids must be between 0 and {card.vocab_size - 1}", parameter=parameter
        )

"""What the bodies of chats and text completions share, with the extras of vLLM that this server can honour.

What is not built yet is refused by name unless it has its neutral value; nothing is ignored.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import ConfigDict, Field

from server.api.edge import Edge
from server.api.fields import (
    MAX_COUNT,
    Alternatives,
    ModelName,
    SampleCount,
    StrictBody,
    Text,
    TokenCount,
    named,
    only,
)
from server.api.openai.choices import Wanted
from server.api.openai.logprobs import Scores
from server.api.openai.structure import StructuredBody
from server.api.openai.usage import Tally, prompt_tokens
from server.api.parameters import GenerationParameters
from server.api.receipts import receipt
from server.errors import InvalidRequest
from server.request import GenerateRequest, ModelCard


class StreamOptions(StrictBody):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False
    """With each chunk, the usage so far; needs `include_usage`."""
    include_obfuscation: Annotated[bool | None, only(False)] = False


class OpenAIBody(GenerationParameters, StructuredBody):
    """What chat and text completions share."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: ModelName | None = None
    max_new_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = Field(
        None, validation_alias=named("max_new_tokens", first="max_tokens")
    )
    truncate: TokenCount | None = Field(
        None, validation_alias=named("truncate", first="truncate_prompt_tokens")
    )
    n: SampleCount | None = None
    """How many texts to write for each prompt: one seed, different random numbers."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    prompt_logprobs: Alternatives | None = None
    """Score the prompt too, with so many alternatives a token."""
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    """Name tokens by their ids where log-probabilities are told: `token_id:5`."""
    receipt: bool | None = None
    """Tell what each text was made of, for `/v1/verify`."""
    user: Text | None = None
    """Who asks, for the caller's own records."""

    skip_special_tokens: Annotated[bool | None, only(True)] = True
    spaces_between_special_tokens: Annotated[bool | None, only(True)] = True

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    @abstractmethod
    def sample_count(self) -> int:
        """Of each prompt."""

    @property
    @abstractmethod
    def scored(self) -> int | None:
        """How many alternatives to tell beside each token; None: tokens are not scored."""

    @property
    def echoes(self) -> bool:
        """Whether the prompt is sent before the text."""
        return False

    def wanted(self, card: ModelCard) -> Wanted:
        """What the choices say besides their text."""
        ids = bool(self.return_tokens_as_token_ids)
        return Wanted(
            scores=None if self.scored is None else Scores(alternatives=self.scored, as_ids=ids),
            echo=self.echoes,
            token_ids=bool(self.return_token_ids),
            prompt_alternatives=self.prompt_logprobs,
            receipt=partial(receipt, card) if self.receipt else None,
        )

    async def tally(self, edge: Edge, orders: Sequence[GenerateRequest]) -> Tally:
        """Counts the tokens of a stream of `orders`, as far as the caller wants to know."""
        each_prompt = orders[:: self.sample_count]
        return Tally(
            samples=self.sample_count,
            asked=self.include_usage,
            prompt_tokens=await prompt_tokens(edge, each_prompt) if self.continuous_usage else None,
        )

    def check(self) -> None:
        """Raises InvalidRequest for what has no meaning together: nothing is ignored."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("`stream_options` needs `stream` to be true", parameter="stream_options")
        if self.continuous_usage and not self.include_usage:
            raise InvalidRequest(
                "`continuous_usage_stats` needs `include_usage` to be true", parameter="stream_options"
            )
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidRequest("`prompt_logprobs` does not go with `stream`", parameter="prompt_logprobs")

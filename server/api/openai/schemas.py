"""The bodies of the OpenAI dialect, with the extras of vLLM that this server can honour.

What is not built yet is refused by name unless it has its neutral value; nothing is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from server.api.edge import Edge
from server.api.fields import (
    MAX_COUNT,
    MinP,
    ModelName,
    RepetitionPenalty,
    Seed,
    Stop,
    StrictBody,
    Temperature,
    Text,
    TextsOrTokens,
    TokenCount,
    TopP,
    described,
    named,
    only,
    sampling,
    texts_or_tokens,
)
from server.errors import EmptyInput, InvalidRequest
from server.request import EmbedRequest, FinishReason, GenerateRequest, ModelCard, Sampling

FINISH = {FinishReason.LENGTH: "length", FinishReason.EOS: "stop", FinishReason.STOP: "stop"}

DEFAULT_COMPLETION_TOKENS = 16


class TextPart(StrictBody):
    type: Literal["text"]
    text: Text


class Message(StrictBody):
    """One turn. `developer` is what newer models call `system`; templates know only the latter."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Text | list[TextPart], described('a string or a list of {"type": "text"} parts')]
    name: Text | None = None
    tool_call_id: Text | None = None
    tool_calls: Annotated[Any, only([])] = None
    refusal: Annotated[str | None, only()] = None

    def to_template(self) -> dict[str, Any]:
        """As chat templates take it: one string of content, and no key without a value."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        message = {"role": "system" if self.role == "developer" else self.role, "content": "".join(parts)}
        extras = {"name": self.name, "tool_call_id": self.tool_call_id}
        return message | {key: value for key, value in extras.items() if value is not None}


class Conversation(StrictBody):
    """Messages, and how the model's own template (never the caller's) turns them into a prompt."""

    messages: list[Message]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: Annotated[Any, only({})] = None
    tools: Annotated[Any, only([])] = None

    async def render(self, edge: Edge, card: ModelCard) -> str:
        """The prompt. Raises EmptyInput, and InvalidRequest if the wishes exclude each other."""
        if not self.messages:
            raise EmptyInput("messages")
        if self.add_generation_prompt and self.continue_final_message:
            raise InvalidRequest(
                "`continue_final_message` and `add_generation_prompt` exclude each other",
                parameter="continue_final_message",
            )
        return await edge.engine.render_chat(
            [message.to_template() for message in self.messages],
            model=card.name,
            add_generation_prompt=not self.continue_final_message and self.add_generation_prompt is not False,
            continue_final_message=self.continue_final_message,
        )


class StreamOptions(StrictBody):
    include_usage: bool | None = False
    continuous_usage_stats: Annotated[bool | None, only(False)] = False
    include_obfuscation: Annotated[bool | None, only(False)] = False


class SamplingBody(StrictBody):
    """What chat and text completions share."""

    model: ModelName | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_COUNT)] | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = Field(None, validation_alias=named("repetition_penalty"))
    seed: Seed | None = Field(None, validation_alias=named("seed"))
    max_tokens: TokenCount | None = Field(None, validation_alias=named("max_new_tokens", first="max_tokens"))
    stop: Stop | None = None
    ignore_eos: bool | None = False
    truncate_prompt_tokens: TokenCount | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Text | None = None  # who asks, for the caller's own records

    n: Annotated[int | None, only(1)] = 1
    best_of: Annotated[int | None, only(1)] = None
    frequency_penalty: Annotated[float | None, only(0.0)] = 0.0
    presence_penalty: Annotated[float | None, only(0.0)] = 0.0
    length_penalty: Annotated[float | None, only(1.0)] = 1.0
    logit_bias: Annotated[Any, only({}, [])] = None
    typical_p: Annotated[float | None, only(1.0)] = Field(None, validation_alias=named("typical_p"))
    min_tokens: Annotated[int | None, only(0)] = Field(0, validation_alias=named("min_tokens"))
    stop_token_ids: Annotated[list[Any] | None, only([])] = None
    bad_words: Annotated[list[Any] | None, only([])] = None
    allowed_token_ids: Annotated[Any, only()] = None
    include_stop_str_in_output: Annotated[bool | None, only(False)] = False
    skip_special_tokens: Annotated[bool | None, only(True)] = True
    spaces_between_special_tokens: Annotated[bool | None, only(True)] = True
    prompt_logprobs: Annotated[Any, only()] = None
    use_beam_search: Annotated[bool | None, only(False)] = False
    echo: Annotated[bool | None, only(False)] = False
    response_format: Annotated[Any, only({"type": "text"})] = None
    structured_outputs: Annotated[Any, only()] = None
    return_token_ids: Annotated[bool | None, only(False)] = None
    priority: Annotated[int | None, only(0)] = 0

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_stream_options(self) -> None:
        """`stream_options` without a stream would be ignored; nothing is."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("`stream_options` needs `stream` to be true", parameter="stream_options")

    def to_sampling(self) -> Sampling:
        return sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k if self.top_k and self.top_k > 0 else None,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )


class ChatBody(SamplingBody, Conversation):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": "Name three colours."}],
                    "max_tokens": 40,
                    "temperature": 0.7,
                }
            ]
        }
    )

    add_special_tokens: bool | None = False  # the template has written them
    logprobs: Annotated[bool | None, only(False)] = False
    top_logprobs: Annotated[int | None, only(0)] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    parallel_tool_calls: bool | None = None

    def to_request(self, prompt: str, card: ModelCard) -> GenerateRequest:
        """`prompt` is the rendered conversation. Without `max_tokens`, the rest of the context."""
        self.check_stream_options()
        return GenerateRequest(
            prompt=prompt,
            sampling=self.to_sampling(),
            model=card.name,
            max_new_tokens=self.max_tokens,
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            truncate=self.truncate_prompt_tokens,
            add_special_tokens=bool(self.add_special_tokens),
        )


class CompletionBody(SamplingBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Once upon a time", "max_tokens": 20, "seed": 42}]}
    )

    prompt: TextsOrTokens
    add_special_tokens: bool | None = True
    logprobs: Annotated[int | None, only()] = None
    suffix: Annotated[str | None, only()] = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        return texts_or_tokens(self.prompt)

    def to_requests(self, card: ModelCard) -> list[GenerateRequest]:
        """One for each prompt, all with the same seed. Raises EmptyInput for an empty one."""
        self.check_stream_options()
        if not all(self.prompts):
            raise EmptyInput("prompt")
        chosen = self.to_sampling()
        return [self._to_request(prompt, chosen, card) for prompt in self.prompts]

    def _to_request(self, prompt: str | list[int], chosen: Sampling, card: ModelCard) -> GenerateRequest:
        return GenerateRequest(
            prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            sampling=chosen,
            model=card.name,
            max_new_tokens=self.max_tokens or DEFAULT_COMPLETION_TOKENS,
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            truncate=self.truncate_prompt_tokens,
            add_special_tokens=self.add_special_tokens is not False,
        )


class EmbeddingsBody(StrictBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "What is deep learning?"}]})

    input: TextsOrTokens
    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    user: Text | None = None

    def to_requests(self, card: ModelCard) -> list[EmbedRequest]:
        """One for each text. Raises EmptyInput for an empty one."""
        texts = texts_or_tokens(self.input)
        if not all(texts):
            raise EmptyInput("input")
        return [
            EmbedRequest(
                text=text if isinstance(text, str) else tuple(text),
                model=card.name,
                dimensions=self.dimensions,
            )
            for text in texts
        ]

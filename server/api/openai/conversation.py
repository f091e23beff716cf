"""Messages, and how they become a prompt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from server.api.edge import Edge
from server.api.fields import StrictBody, Text, described, only
from server.errors import EmptyInput, InvalidRequest
from server.request import ModelCard


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

"""How much one request may ask for. Checked before anything is allocated for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import EmptyInput, RequestTooLarge
from server.request import GenerateRequest, ModelCard

MAX_INPUTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one request. Passing one is refused with `RequestTooLarge`, which names the bound.

    `max_cost` bounds prompts x samples or beams x tokens to be generated for each: the time that one request
    can take from all others. The default is 32 texts that each fill a context of 8192 tokens. A prompt that
    is scored is computed for each sample anew, and counts for all but the first, a character as a token.
    """

    max_body_bytes: int = 2 * 1024 * 1024
    max_inputs: int = MAX_INPUTS  # texts in one request
    max_stop_sequences: int = 16
    max_stop_characters: int = 1024  # of one stop string: so much text may be held back
    max_targets: int = 1024
    max_cost: int = 32 * 8192

    def check_inputs(self, count: int, parameter: str) -> None:
        """Refuse no text at all (`EmptyInput`), and more texts than `max_inputs`."""
        if count == 0:
            raise EmptyInput(parameter)
        if count > self.max_inputs:
            raise RequestTooLarge(
                f"`{parameter}` supports up to {self.max_inputs} inputs. Given: {count}", parameter=parameter
            )

    def check_texts(self, prompts: int, samples: int, parameter: str) -> None:
        """Refuse more texts in one answer than `max_inputs`: each is a request to the engine."""
        if prompts * samples > self.max_inputs:
            raise RequestTooLarge(
                f"prompts x samples must be <= {self.max_inputs}. Given: {prompts} x {samples}",
                parameter=parameter,
            )

    def check_stop(self, stop: Sequence[str]) -> None:
        if len(stop) > self.max_stop_sequences:
            raise RequestTooLarge(
                f"`stop` supports up to {self.max_stop_sequences} stop sequences. Given: {len(stop)}",
                parameter="stop",
            )
        longest = max(map(len, stop), default=0)
        if longest > self.max_stop_characters:
            raise RequestTooLarge(
                f"a stop sequence has at most {self.max_stop_characters} characters. Given: {longest}",
                parameter="stop",
            )

    def check_targets(self, count: int) -> None:
        if count > self.max_targets:
            raise RequestTooLarge(
                f"`targets` supports up to {self.max_targets} words. Given: {count}", parameter="targets"
            )

    def check_cost(self, requests: Sequence[GenerateRequest], card: ModelCard) -> None:
        """Refuse texts x new tokens above `max_cost`, where `requests` holds one for each sample of a prompt,
        and every beam of a search is a text.

        No text costs more than its model's context, and none costs nothing: a prompt may be scored alone.
        """
        anew = sum(map(_scored_anew, requests))
        cost = anew + sum(_cost(request, card) for request in requests)
        if cost > max(self.max_cost, card.max_tokens):
            scored = ", and the prompt is scored for each sample" if anew else ""
            beams = " x beams" if any(request.beams for request in requests) else ""
            raise RequestTooLarge(
                f"prompts x samples{beams} x new tokens must be <= {self.max_cost}. Given: {cost}{scored}",
                parameter="max_new_tokens",
            )


def _cost(request: GenerateRequest, card: ModelCard) -> int:
    asked = card.max_tokens if request.max_new_tokens is None else request.max_new_tokens
    texts = 1 if request.beams is None else request.beams.width
    return texts * min(max(asked, 1), card.max_tokens)


def _scored_anew(request: GenerateRequest) -> int:
    """The length of a prompt that a sample before this one had scored already."""
    again = request.prompt_alternatives is not None and request.sampling.sample > 0
    return len(request.prompt) if again else 0


class BodyLimit:
    """ASGI middleware: counts the bytes of a body as they come, and refuses with 413 once there are too many.

    A `content-length` above the limit is refused before the first byte is read; a body that declares
    none, or less than it sends, is refused on the byte that passes the limit.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _declared_length(scope)
        received = 0

        async def counted() -> Message:
            nonlocal received
            if declared > self._max:
                raise self._too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> HTTPException:
        # The rest of the body is still on its way: without `close`, the connection would have to swallow it.
        return HTTPException(
            413, f"the body must have at most {self._max} bytes", headers={"Connection": "close"}
        )


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0

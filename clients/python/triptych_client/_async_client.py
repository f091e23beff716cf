"""The asynchronous client: a shell over `httpx.AsyncClient` around `_protocol`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from triptych_client import _protocol
from triptych_client._errors import (
    ConnectionLost,
    Overloaded,
    ServerTimeout,
    ServerUnreachable,
    StreamTruncated,
)
from triptych_client._failures import error_of
from triptych_client._fields import parse_json
from triptych_client._transport import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    expect_events,
    in_our_words,
    settings,
    wait_before_retry_s,
)
from triptych_client._types import (
    Generation,
    MaskCandidate,
    Message,
    ModelCard,
    Options,
    Piece,
    TextOptions,
    Verdict,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

T = TypeVar("T")


class AsyncStream(AsyncIterator[Piece]):
    """The pieces of one answer, as they come; the last one carries the `result`.

    The request is sent when iteration begins. Leaving the `async with` block closes the connection, and with
    it the work on the server. A bare `async for` that is left early closes it only when it is collected.
    """

    def __init__(self, pieces: AsyncGenerator[Piece, None]) -> None:
        self._pieces = pieces

    async def __anext__(self) -> Piece:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._pieces.aclose()


class AsyncClient:
    """`Client`, awaited: the same parameters, the same methods, the same errors."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        api_key: str | None = None,
        retries: int = 0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url, self._timeout, self._retries = base_url, timeout, retries
        self._http = httpx.AsyncClient(**settings(base_url, timeout, api_key), transport=transport)

    async def generate(self, prompt: str, **options: Unpack[Options]) -> Generation:
        """As `Client.generate`."""
        return await self._call(_protocol.generate(prompt, options))

    def stream(self, prompt: str, **options: Unpack[Options]) -> AsyncStream:
        """As `Client.stream`; not awaited itself: `async with client.stream(…) as pieces`."""
        return AsyncStream(self._pieces(_protocol.stream(prompt, options)))

    async def chat(self, messages: str | Sequence[Message], **options: Unpack[Options]) -> Generation:
        """As `Client.chat`."""
        return await self._call(_protocol.chat(messages, options))

    def stream_chat(self, messages: str | Sequence[Message], **options: Unpack[Options]) -> AsyncStream:
        """As `Client.stream_chat`; not awaited itself."""
        return AsyncStream(self._pieces(_protocol.stream_chat(messages, options)))

    async def fill_mask(
        self,
        text: str,
        *,
        top_k: int | None = None,
        targets: Sequence[str] | None = None,
        model: str | None = None,
    ) -> list[list[MaskCandidate]]:
        """As `Client.fill_mask`."""
        return await self._call(_protocol.fill_mask(text, top_k=top_k, targets=targets, model=model))

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool = True,
        truncate: bool = False,
        dimensions: int | None = None,
        model: str | None = None,
    ) -> list[list[float]]:
        """As `Client.embed`."""
        return await self._call(
            _protocol.embed(texts, normalize=normalize, truncate=truncate, dimensions=dimensions, model=model)
        )

    async def summarize(
        self,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        clean_up_spaces: bool = False,
        **options: Unpack[TextOptions],
    ) -> list[str]:
        """As `Client.summarize`."""
        return await self._call(
            _protocol.summarize(texts, options, truncate=truncate, clean_up_spaces=clean_up_spaces)
        )

    async def translate(
        self,
        texts: str | Sequence[str],
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        truncate: bool = False,
        clean_up_spaces: bool = False,
        **options: Unpack[TextOptions],
    ) -> list[str]:
        """As `Client.translate`."""
        return await self._call(
            _protocol.translate(
                texts,
                options,
                src_lang=src_lang,
                tgt_lang=tgt_lang,
                truncate=truncate,
                clean_up_spaces=clean_up_spaces,
            )
        )

    async def verify(
        self, receipt: Mapping[str, Any], *, model: str | None = None, force: bool = False
    ) -> Verdict:
        """As `Client.verify`."""
        return await self._call(_protocol.verify(receipt, model=model, force=force))

    async def models(self) -> list[ModelCard]:
        """As `Client.models`."""
        return await self._call(_protocol.models())

    async def health(self) -> bool:
        """As `Client.health`."""
        return await self._probe("/health")

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._probe("/ready")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _probe(self, path: str) -> bool:
        """503 and silence are a plain no; anything else that is not a yes raises."""
        try:
            with in_our_words(self._base_url, self._timeout):
                response = await self._http.get(path)
        except (ServerUnreachable, ServerTimeout, ConnectionLost):
            return False
        if response.is_success or response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return response.is_success
        raise error_of(response.status_code, response.content, response.headers)

    async def _call(self, call: _protocol.Call[T]) -> T:
        async with self._exchange(call) as response:
            with in_our_words(self._base_url, self._timeout):
                content = await response.aread()
            return call.read(parse_json(content), response.headers)

    async def _pieces(self, call: _protocol.StreamCall) -> AsyncGenerator[Piece, None]:
        async with self._exchange(call) as response:
            expect_events(response)
            reader = call.reader(response.headers)
            try:
                with in_our_words(self._base_url, self._timeout):
                    async for chunk in response.aiter_bytes():
                        for piece in reader.feed(chunk):
                            yield piece
            except ConnectionLost as error:
                if not reader.ended:
                    raise StreamTruncated(reader.text) from error
            reader.finish()

    @asynccontextmanager
    async def _exchange(
        self, call: _protocol.Call[Any] | _protocol.StreamCall
    ) -> AsyncIterator[httpx.Response]:
        """The answer, its body unread; whatever happens inside, the connection is given back or closed."""
        response = await self._send_patiently(call)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send_patiently(self, call: _protocol.Call[Any] | _protocol.StreamCall) -> httpx.Response:
        attempt = 0
        while True:
            try:
                return await self._send(call)
            except Overloaded as refusal:
                await asyncio.sleep(wait_before_retry_s(refusal, attempt=attempt, retries=self._retries))
            attempt += 1

    async def _send(self, call: _protocol.Call[Any] | _protocol.StreamCall) -> httpx.Response:
        request = self._http.build_request(call.method, call.path, json=call.body)
        with in_our_words(self._base_url, self._timeout):
            response = await self._http.send(request, stream=True)
            if response.is_success:
                return response
            try:
                content = await response.aread()
            finally:
                await response.aclose()
        raise error_of(response.status_code, content, response.headers)

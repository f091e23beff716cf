"""The blocking client: a shell over `httpx.Client` around `_protocol`."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


class Stream(Iterator[Piece]):
    """The pieces of one answer, as they come; the last one carries the `result`.

    The request is sent when iteration begins. Closing the stream, or leaving its `with` block, closes the
    connection, and with it the work on the server.
    """

    def __init__(self, pieces: Generator[Piece, None, None]) -> None:
        self._pieces = pieces

    def __next__(self) -> Piece:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pieces.close()


class Client:
    """A connection to a Triptych server; safe to share between threads.

    base_url: where the server is.
    timeout: seconds of silence after which to give up; None waits for ever.
    api_key: sent as a bearer token.
    retries: how often to send a request again that was refused because the queue is full (429), after as
        long as the server asks for. Nothing else is retried.
    transport: replaces the network, as in `httpx.Client`; for proxies and tests.

    Every method raises the errors of `triptych_client.TriptychError`.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        api_key: str | None = None,
        retries: int = 0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base_url, self._timeout, self._retries = base_url, timeout, retries
        self._http = httpx.Client(**settings(base_url, timeout, api_key), transport=transport)

    def generate(self, prompt: str, **options: Unpack[Options]) -> Generation:
        """Continue `prompt`, and return the whole text. See `Options` for what may be asked."""
        return self._call(_protocol.generate(prompt, options))

    def stream(self, prompt: str, **options: Unpack[Options]) -> Stream:
        """Continue `prompt` piece by piece.

        Raises `StreamTruncated` where the stream ends without its final event.
        """
        return Stream(self._pieces(_protocol.stream(prompt, options)))

    def chat(self, messages: str | Sequence[Message], **options: Unpack[Options]) -> Generation:
        """Answer the last of `messages`; a string is one message of the user."""
        return self._call(_protocol.chat(messages, options))

    def stream_chat(self, messages: str | Sequence[Message], **options: Unpack[Options]) -> Stream:
        """Answer piece by piece, otherwise as `chat`. Raises `StreamTruncated` as `stream` does."""
        return Stream(self._pieces(_protocol.stream_chat(messages, options)))

    def fill_mask(
        self,
        text: str,
        *,
        top_k: int | None = None,
        targets: Sequence[str] | None = None,
        model: str | None = None,
    ) -> list[list[MaskCandidate]]:
        """What each mask of `text` may stand for: one list a mask, in order, the most probable first.

        top_k: how many candidates a mask; absent: the server's choice (5).
        targets: consider only these words.
        """
        return self._call(_protocol.fill_mask(text, top_k=top_k, targets=targets, model=model))

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool = True,
        truncate: bool = False,
        dimensions: int | None = None,
        model: str | None = None,
    ) -> list[list[float]]:
        """One vector a text, in order; a string is a list of one.

        normalize: to length 1.
        truncate: cut a text that is too long instead of refusing it.
        dimensions: keep the first so many numbers of each vector.
        """
        return self._call(
            _protocol.embed(texts, normalize=normalize, truncate=truncate, dimensions=dimensions, model=model)
        )

    def summarize(
        self,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        clean_up_spaces: bool = False,
        **options: Unpack[TextOptions],
    ) -> list[str]:
        """One summary a text, in order; a string is a list of one.

        truncate: cut a text that is too long instead of refusing it.
        clean_up_spaces: take back the spaces before punctuation that some tokenizers leave.
        options: what of the writing is not to be as the model's folder has it.
        """
        return self._call(
            _protocol.summarize(texts, options, truncate=truncate, clean_up_spaces=clean_up_spaces)
        )

    def translate(
        self,
        texts: str | Sequence[str],
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        truncate: bool = False,
        clean_up_spaces: bool = False,
        **options: Unpack[TextOptions],
    ) -> list[str]:
        """One translation a text, in order, otherwise as `summarize`.

        src_lang, tgt_lang: from and to which language, as the model's tokenizer names them ("de_DE"); of a
            model that was trained for pairs by name, such as T5, the two of a pair ("en" and "de").
        """
        return self._call(
            _protocol.translate(
                texts,
                options,
                src_lang=src_lang,
                tgt_lang=tgt_lang,
                truncate=truncate,
                clean_up_spaces=clean_up_spaces,
            )
        )

    def verify(self, receipt: Mapping[str, Any], *, model: str | None = None, force: bool = False) -> Verdict:
        """Have a text made again from the `receipt` of its `Generation`, and compared.

        model: what the receipt's model is called here, if it is called otherwise.
        force: make it again even where weights or machine are others, and a difference proves nothing.
        """
        return self._call(_protocol.verify(receipt, model=model, force=force))

    def models(self) -> list[ModelCard]:
        """What is loaded: each model, and after it its adapters."""
        return self._call(_protocol.models())

    def health(self) -> bool:
        """Whether the server's process answers."""
        return self._probe("/health")

    def ready(self) -> bool:
        """Whether the server can serve: a real forward pass has succeeded, and recently."""
        return self._probe("/ready")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _probe(self, path: str) -> bool:
        """503 and silence are a plain no; anything else that is not a yes raises."""
        try:
            with in_our_words(self._base_url, self._timeout):
                response = self._http.get(path)
        except (ServerUnreachable, ServerTimeout, ConnectionLost):
            return False
        if response.is_success or response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return response.is_success
        raise error_of(response.status_code, response.content, response.headers)

    def _call(self, call: _protocol.Call[T]) -> T:
        with self._exchange(call) as response:
            with in_our_words(self._base_url, self._timeout):
                content = response.read()
            return call.read(parse_json(content), response.headers)

    def _pieces(self, call: _protocol.StreamCall) -> Generator[Piece, None, None]:
        with self._exchange(call) as response:
            expect_events(response)
            reader = call.reader(response.headers)
            try:
                with in_our_words(self._base_url, self._timeout):
                    for chunk in response.iter_bytes():
                        yield from reader.feed(chunk)
            except ConnectionLost as error:
                if not reader.ended:
                    raise StreamTruncated(reader.text) from error
            reader.finish()

    @contextmanager
    def _exchange(self, call: _protocol.Call[Any] | _protocol.StreamCall) -> Iterator[httpx.Response]:
        """The answer, its body unread; whatever happens inside, the connection is given back or closed."""
        response = self._send_patiently(call)
        try:
            yield response
        finally:
            response.close()

    def _send_patiently(self, call: _protocol.Call[Any] | _protocol.StreamCall) -> httpx.Response:
        attempt = 0
        while True:
            try:
                return self._send(call)
            except Overloaded as refusal:
                time.sleep(wait_before_retry_s(refusal, attempt=attempt, retries=self._retries))
            attempt += 1

    def _send(self, call: _protocol.Call[Any] | _protocol.StreamCall) -> httpx.Response:
        request = self._http.build_request(call.method, call.path, json=call.body)
        with in_our_words(self._base_url, self._timeout):
            response = self._http.send(request, stream=True)
            if response.is_success:
                return response
            try:
                content = response.read()
            finally:
                response.close()
        raise error_of(response.status_code, content, response.headers)

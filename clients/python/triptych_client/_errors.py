"""What can go wrong, as a tree. Each leaf is named for what happened.

TriptychError
├── ServerUnreachable       no server answers at that address
├── ServerTimeout           it answers, but was silent for longer than `timeout`
├── ConnectionLost          it went away in the middle of an answer
│   └── StreamTruncated     … of a stream, before the final event; carries the text so far
├── UnexpectedAnswer        an answer that this client cannot read: another server, another version
└── RequestFailed           the server said no, in words; carries status, kind and parameter
    ├── InvalidRequest      400, 405, 413, 415, 422: the request cannot be served as it is
    ├── Unauthorized        401, 403: the API key is missing or wrong
    ├── NotFound            404: no model, or no route, of that name
    ├── Overloaded          429: the queue is full; says when to come back
    ├── NotReady            503: still loading, or shutting down
    └── ServerFailed        424, 5xx: the server could not finish; the request may be sent again
"""

from __future__ import annotations


class TriptychError(Exception):
    """The root. Whatever a server or the way to it did wrong, `except TriptychError` catches it."""


class ServerUnreachable(TriptychError):
    def __init__(self, base_url: str, reason: str) -> None:
        super().__init__(f"no server answers at {base_url} ({reason}); `triptych serve` starts one")
        self.base_url = base_url


class ServerTimeout(TriptychError):
    def __init__(self, base_url: str, timeout: float | None) -> None:
        super().__init__(f"{base_url} was silent for longer than the timeout of {timeout} seconds")
        self.timeout = timeout


class ConnectionLost(TriptychError):
    """The request may have run in part. With a seed, sending it again gives the same text."""


class StreamTruncated(ConnectionLost):
    """`text` is what came before the stream broke; it is not the whole."""

    def __init__(self, text: str) -> None:
        super().__init__(f"the stream ended without its final event, after {len(text)} characters")
        self.text = text


class UnexpectedAnswer(TriptychError):
    """The message says what was expected and what is there instead."""


class RequestFailed(TriptychError):
    """`status` is the HTTP status, None for an error inside a stream; `kind` the server's name for the error;
    `parameter` the field that is to blame. The last two are None where the server does not say."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.parameter = status, kind, parameter


class InvalidRequest(RequestFailed):
    """Sending the same request again will fail again."""


class Unauthorized(RequestFailed):
    """See `api_key`."""


class NotFound(RequestFailed):
    """`Client.models` lists what is loaded."""


class Overloaded(RequestFailed):
    """Nothing has run. `retry_after_s` is when the server expects to have room, in seconds."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str | None = None,
        parameter: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, status=status, kind=kind, parameter=parameter)
        self.retry_after_s = retry_after_s


class NotReady(RequestFailed):
    """Nothing can be served yet, or no more."""


class ServerFailed(RequestFailed):
    """The fault is the server's, not the request's."""

"""What the two clients share of httpx: how it is set up, what its errors mean, how long to wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from triptych_client._errors import (
    ConnectionLost,
    Overloaded,
    ServerTimeout,
    ServerUnreachable,
    UnexpectedAnswer,
)
from triptych_client._version import __version__

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0
LONGEST_WAIT_S = 60.0  # between retries; a server that asks for more is not waited for


def settings(base_url: str, timeout: float | None, api_key: str | None) -> dict[str, Any]:
    """The keyword arguments of `httpx.Client` and `httpx.AsyncClient`. `timeout` bounds each silence."""
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"the address must start with http:// or https://; found {base_url!r}")
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{base_url!r} is no address: {error}") from error
    headers = {"user-agent": f"triptych-client/{__version__}"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    wait = httpx.Timeout(timeout, connect=CONNECT_TIMEOUT_S)
    return {"base_url": url, "headers": headers, "timeout": wait, "limits": limits}


@contextmanager
def in_our_words(base_url: str, timeout: float | None) -> Iterator[None]:
    """Turns what httpx raises inside into the tree of `_errors`."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerUnreachable(base_url, str(error) or "no connection in time") from error
    except httpx.TimeoutException as error:
        raise ServerTimeout(base_url, timeout) from error
    except httpx.TransportError as error:
        raise ConnectionLost(f"the connection to {base_url} broke: {error}") from error
    except httpx.DecodingError as error:
        raise UnexpectedAnswer(f"the answer of {base_url} cannot be decompressed: {error}") from error


def wait_before_retry_s(refusal: Overloaded, *, attempt: int, retries: int) -> float:
    """Seconds to wait after the `attempt`-th refusal, from 0: as long as the server asks for, else half a
    second, doubled each time. Raises the refusal itself once there is no point in waiting.
    """
    wait_s = 0.5 * 2**attempt if refusal.retry_after_s is None else refusal.retry_after_s
    if attempt >= retries or wait_s > LONGEST_WAIT_S:
        raise refusal
    return wait_s


def expect_events(response: httpx.Response) -> None:
    """Raises `UnexpectedAnswer` unless the answer is a stream of server-sent events."""
    kind = response.headers.get("content-type", "nothing named")
    if not kind.startswith("text/event-stream"):
        raise UnexpectedAnswer(f"expected text/event-stream from the server, found {kind}")

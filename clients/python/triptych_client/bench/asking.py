"""One request after the other to one server: sent, read, timed, and written down."""

from __future__ import annotations

import time
from typing import Any

import httpx

from triptych_client._errors import (
    ConnectionLost,
    InvalidRequest,
    RequestFailed,
    TriptychError,
    UnexpectedAnswer,
)
from triptych_client._failures import error_of
from triptych_client._sse import EventDecoder
from triptych_client._transport import expect_events, in_our_words, settings
from triptych_client.bench.dialects import LeftOut, Question, to_blame
from triptych_client.bench.plan import Failure, Plan, RequestRecord, Tally
from triptych_client.bench.readers import Progress
from triptych_client.bench.wire import LeanTransport


def http_client(plan: Plan, api_key: str | None) -> httpx.AsyncClient:
    """The connections of one API key. Raises ValueError for an address that is none."""
    lean = LeanTransport() if plan.url.startswith("http://") else None
    http = httpx.AsyncClient(**settings(plan.url, plan.timeout_s, api_key), transport=lean)
    http.headers["accept-encoding"] = "identity"  # a server that compresses would hold tokens back for it
    return http


class Asker:
    """Asks in the plan's dialect. `left_out` grows by what the server refuses to know."""

    def __init__(self, plan: Plan, http: httpx.AsyncClient, tally: Tally) -> None:
        self._plan, self._http = plan, http
        self.tally = tally
        self._understood = False  # the server has answered: what it refuses now is not for a field's sake
        self.left_out: LeftOut = frozenset()

    async def record(self, question: Question, record: RequestRecord) -> None:
        """Ask, and write down what happens; a request that fails is no error here."""
        try:
            await self.ask(question, record)
        except TriptychError as error:
            record.failure = failure_of(error)
            self.tally.failed += 1
        record.ended_s = time.perf_counter()
        self.tally.ended += 1

    async def ask(self, question: Question, record: RequestRecord) -> None:
        """Raises the `TriptychError` that the request failed with.

        Until the server has answered once, the same request follows a refusal with fewer fields.
        """
        record.texts = len(question.texts) - self._plan.dialect.queries
        record.asked_tokens = question.tokens
        left_out = self.left_out
        while True:
            body = self._plan.dialect.body(question, left_out)
            try:
                await self._send(body, record)
            except InvalidRequest as refusal:
                learnt = self.left_out - left_out  # by another request, in the meantime
                fewer = learnt if self._understood else to_blame(body, str(refusal))
                if not fewer or record.arrivals_s:
                    raise
                left_out |= fewer
            else:
                self._understood, self.left_out = True, self.left_out | left_out
                return

    async def _send(self, body: dict[str, Any], record: RequestRecord) -> None:
        dialect = self._plan.dialect
        with in_our_words(self._plan.url, self._plan.timeout_s):
            async with self._http.stream("POST", dialect.path, json=body) as response:
                if not response.is_success:
                    raise error_of(response.status_code, await response.aread(), response.headers)
                if dialect.streamed:
                    expect_events(response)
                    await self._read_events(response, record)
                else:
                    await self._read_whole(response, record)

    async def _read_events(self, response: httpx.Response, record: RequestRecord) -> None:
        read = self._plan.dialect.read_event
        assert read is not None
        decoder, done = EventDecoder(), False
        async for chunk in response.aiter_bytes():
            now_s = time.perf_counter()
            for event in decoder.feed(chunk):
                progress = read(event.data)
                if progress.tokens:
                    record.arrivals_s.append(now_s)
                    self.tally.tokens += 1
                _count(progress, record)
                done = done or progress.done
        record.tokens = record.tokens if record.counted else len(record.arrivals_s)
        if not done:
            raise ConnectionLost("the stream ended without its final event")

    async def _read_whole(self, response: httpx.Response, record: RequestRecord) -> None:
        read = self._plan.dialect.read_answer
        assert read is not None
        progress = read(await response.aread(), response.headers)
        if progress.texts != record.texts:
            raise UnexpectedAnswer(f"{record.texts} texts were sent, {progress.texts} answered")
        _count(progress, record)
        self.tally.tokens += record.tokens


def failure_of(error: TriptychError) -> Failure:
    status = error.status if isinstance(error, RequestFailed) else None
    kind = type(error).__name__
    return Failure(kind=kind if status is None else f"{kind} ({status})", message=str(error))


def _count(progress: Progress, record: RequestRecord) -> None:
    if progress.total is not None:
        record.tokens, record.counted = progress.total, True
    if progress.prompt_tokens is not None:
        record.prompt_tokens = progress.prompt_tokens

"""What is promised of a request, and how many of them keep it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise

from triptych_client.bench.plan import RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A service level objective: the most that each may take, in milliseconds; None: as long as it likes.

    ttft: time to the first token.
    itl: inter-token latency, of every pair of the request's tokens: the longest decides.
    tpot: time per output token after the first, on average over the request.
    e2e: end to end.
    """

    ttft: float | None = None
    itl: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """From `ttft=500,itl=100`. Raises ValueError, naming what is wrong."""
        known = [field.name for field in fields(cls)]
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name.strip() not in known:
                raise ValueError(f"{name.strip()!r} is none of {', '.join(known)}")
            limits[name.strip()] = _milliseconds(value, part)
        return cls(**limits)

    @property
    def needs_stream(self) -> bool:
        return (self.ttft, self.itl, self.tpot) != (None, None, None)

    def met_by(self, record: RequestRecord) -> bool:
        """Whether `record` ended well, and in time. What was asked of tokens needs at least one."""
        if record.failure is not None or (self.needs_stream and not record.arrivals_s):
            return False
        longest_gap_s = max((b - a for a, b in pairwise(record.arrivals_s)), default=0.0)
        taken_s = (
            (self.ttft, first_token_s(record)),
            (self.itl, longest_gap_s),
            (self.tpot, time_per_token_s(record)),
            (self.e2e, record.ended_s - record.started_s),
        )
        return all(limit is None or seconds is None or 1000 * seconds <= limit for limit, seconds in taken_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """How many requests met the objective, which `share` of all that were sent, how many a second."""

    slo: Slo
    met: int
    share: float
    requests_per_s: float


def goodput(slo: Slo, records: Iterable[RequestRecord], duration_s: float) -> Goodput:
    kept = [slo.met_by(record) for record in records]
    met = sum(kept)
    return Goodput(slo=slo, met=met, share=met / len(kept), requests_per_s=met / duration_s)


def first_token_s(record: RequestRecord) -> float | None:
    return record.arrivals_s[0] - record.started_s if record.arrivals_s else None


def time_per_token_s(record: RequestRecord) -> float | None:
    """Of the tokens after the first, on average; None where there is none."""
    if record.tokens < 2 or not record.arrivals_s:
        return None
    return (record.arrivals_s[-1] - record.arrivals_s[0]) / (record.tokens - 1)


def _milliseconds(value: str, part: str) -> float:
    try:
        milliseconds = float(value)
    except ValueError:
        raise ValueError(f"{part.strip()!r}: expected a number of milliseconds after =") from None
    if not 0 < milliseconds < float("inf"):
        raise ValueError(f"{part.strip()!r}: {value} is not a positive number of milliseconds")
    return milliseconds

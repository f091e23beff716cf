"""How a request stands beside others, whatever it is for."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from server.api.fields import MAX_COUNT, StrictBody
from server.request import Terms

MAX_TIMEOUT_S = 24 * 3600.0


class StandingParameters(StrictBody):
    """When it is served, and how long it may take; none of it changes the answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    priority: Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)] | None = None
    """Requests with a higher one come first."""
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """Seconds: a text that grows is cut off where it stands by then, other work is refused unless begun."""

    def terms(self, tenant: str, *, cache_salt: str | None = None) -> Terms:
        """`tenant` is a digest of the caller's key."""
        return Terms(
            tenant=tenant, priority=self.priority or 0, timeout_s=self.timeout, cache_salt=cache_salt or ""
        )

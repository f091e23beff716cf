"""Whose request it is: a digest of the API key, so that shares are fair and caches apart.

The key itself goes no further than this module: it is neither kept nor logged.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated

from fastapi import Depends, Request

DIGEST_BYTES = 8  # 16 hexadecimal digits: enough to tell tenants apart


def tenant(request: Request) -> str:
    """A digest of the key in `Authorization: Bearer` or `x-api-key`, in this order; empty without a key."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else ""
    key = bearer or request.headers.get("x-api-key", "").strip()
    return blake2b(key.encode(), digest_size=DIGEST_BYTES).hexdigest() if key else ""


TenantOf = Annotated[str, Depends(tenant)]

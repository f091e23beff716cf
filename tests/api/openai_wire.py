"""What the tests of the OpenAI dialect share: reading its streams, and what became of a body."""

from __future__ import annotations

import json
from typing import Any

from httpx import Response

from server.request import GenerateRequest
from tests.fakes import FakeEngine

HI = [{"role": "user", "content": "hi"}]


def events(response: Response) -> list[dict[str, Any]]:
    """The payloads of a stream, which must end with `[DONE]`."""
    payloads = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert payloads.pop() == "[DONE]"
    return [json.loads(payload) for payload in payloads]


def asked(engine: FakeEngine) -> list[GenerateRequest]:
    return [request for request in engine.asked if isinstance(request, GenerateRequest)]

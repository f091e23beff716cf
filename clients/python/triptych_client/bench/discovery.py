"""Finds out what a server speaks, by asking it.

`/info` tells text-generation-inference, text-embeddings-inference and Triptych; `/v1/models` tells whoever
speaks OpenAI. A server with neither is asked for each route with an empty body: one that has it, refuses it
otherwise than with 404.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import httpx

from triptych_client._errors import UnexpectedAnswer
from triptych_client._transport import in_our_words, settings
from triptych_client.bench.dialects import APIS, Dialect

AUTO = "auto"
FAMILIES: dict[str, tuple[str, ...]] = {
    "openai": ("completions", "chat", "embeddings"),
    "tgi": ("generate_stream", "generate"),
    "tei": ("embed", "rerank"),
}
ENCODER_TAGS = ("feature-extraction", "sentence-similarity", "fill-mask")
NO_SUCH_ROUTE = (404, 405, 501)
"""Statuses of a route that is not there."""


async def find_dialect(
    url: str,
    api: str = AUTO,
    *,
    model: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 120.0,
) -> Dialect:
    """What to speak to the server at `url`.

    `api` is one of `APIS` (then the server is asked for nothing but the name of its model, and that only in
    OpenAI's dialects), one of `FAMILIES`, or "auto". Without `model`, a server that lists a single one in
    OpenAI's way is asked for that one, and any other for none.

    Raises ServerUnreachable; UnexpectedAnswer where the server speaks nothing that is asked for; ValueError
    for an address that is none.
    """
    async with httpx.AsyncClient(**settings(url, timeout_s, api_key)) as http:
        server = _Server(http, url, timeout_s)
        chosen = api if api in APIS else await _choose(server, api)
        if model is None and chosen in FAMILIES["openai"]:
            names = await server.models()
            model = names[0] if len(names) == 1 else None
        return APIS[chosen](model)


async def _choose(server: _Server, api: str) -> str:
    if api != AUTO:
        return await server.first_route(FAMILIES[api])
    info = await server.info()
    if (told := _told_by(info)) is not None:
        return told
    if await server.models():
        return await server.first_route(FAMILIES["openai"])
    return await server.first_route(name for family in ("tgi", "openai", "tei") for name in FAMILIES[family])


def _told_by(info: dict[str, Any]) -> str | None:
    """The API of a server with this `/info`; None where that does not tell."""
    kind = info.get("model_type")  # TEI's
    if isinstance(kind, dict):
        if "classifier" in kind:
            raise UnexpectedAnswer("the server classifies texts (/predict), which is not measured here")
        return "rerank" if "reranker" in kind else "embed"
    if info.get("model_pipeline_tag") in ENCODER_TAGS:
        return "embed"
    return "generate_stream" if "max_total_tokens" in info else None


class _Server:
    def __init__(self, http: httpx.AsyncClient, url: str, timeout_s: float) -> None:
        self._http, self._url, self._timeout_s = http, url, timeout_s

    async def info(self) -> dict[str, Any]:
        """Empty where the server has none."""
        return await self._get("/info")

    async def models(self) -> Sequence[str]:
        """The names of OpenAI's list; none where the server has no list."""
        entries = (await self._get("/v1/models")).get("data")
        entries = entries if isinstance(entries, list) else []
        names = [entry.get("id") for entry in entries if isinstance(entry, dict)]
        return [name for name in names if isinstance(name, str)]

    async def first_route(self, apis: Iterable[str]) -> str:
        """The first of `apis` whose route the server has. Raises UnexpectedAnswer if it has none."""
        routes = {name: APIS[name](None).path for name in apis}
        for name, path in routes.items():
            if await self._has(path):
                return name
        tried = ", ".join(routes.values())
        raise UnexpectedAnswer(f"{self._url} has none of {tried}; is the address right?")

    async def _get(self, path: str) -> dict[str, Any]:
        with in_our_words(self._url, self._timeout_s):
            response = await self._http.get(path)
        try:
            answer = response.json() if response.is_success else {}
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    async def _has(self, path: str) -> bool:
        """Left unread: a server that lets an empty body pass may have much to say."""
        with in_our_words(self._url, self._timeout_s):
            async with self._http.stream("POST", path, json={}) as response:
                return response.status_code not in NO_SUCH_ROUTE

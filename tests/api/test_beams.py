"""Beam search as every dialect asks for it."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient

from server.request import Beams, EarlyStopping, GenerateRequest
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def searched(engine: FakeEngine) -> Beams | None:
    request = engine.asked[-1]
    assert isinstance(request, GenerateRequest)
    assert request.sampling.greedy
    return request.beams


@pytest.mark.parametrize(
    ("given", "beams"),
    [
        ({"num_beams": 4}, Beams(width=4)),
        ({"num_beams": 2, "length_penalty": -1.5}, Beams(width=2, length_penalty=-1.5)),
        ({"num_beams": 2, "early_stopping": True}, Beams(width=2, early_stopping=EarlyStopping.AT_ONCE)),
        ({"num_beams": 2, "early_stopping": "never"}, Beams(width=2, early_stopping=EarlyStopping.NEVER)),
        ({"num_beams": 8, "use_beam_search": True, "repetition_penalty": 1.5}, Beams(width=8)),
        ({"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}, None),
    ],
)
async def test_every_dialect_searches(
    client: AsyncClient, engine: FakeEngine, given: dict[str, Any], beams: Beams | None
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    bodies = {
        "/generate": {"inputs": "hi", "parameters": given},
        "/v1/completions": {"prompt": "hi"} | given | ({} if beams else {"temperature": 0}),
        "/v1/chat/completions": {"messages": messages} | given | ({} if beams else {"temperature": 0}),
    }
    for path, body in bodies.items():
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text
        assert searched(engine) == beams


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 0}, "`parameters.num_beams` must be strictly positive"),
        ({"num_beams": 9}, "`parameters.num_beams` must be"),
        ({"length_penalty": 2.0}, "`length_penalty` needs `num_beams` above 1"),
        ({"early_stopping": True}, "`early_stopping` needs `num_beams` above 1"),
        ({"use_beam_search": True}, "`use_beam_search` needs `num_beams` above 1"),
        ({"use_beam_search": False, "num_beams": 2}, "`use_beam_search` is false"),
        ({"num_beams": 2, "temperature": 0.5}, "`temperature` and `num_beams` exclude each other"),
        ({"num_beams": 2, "top_p": 0.5}, "`top_p` and `num_beams` exclude each other"),
        ({"num_beams": 2, "mirostat": 2}, "`mirostat` and `num_beams` exclude each other"),
        ({"num_beams": 2, "do_sample": True}, "`do_sample` and `num_beams` exclude each other"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping"),
    ],
)
async def test_what_does_not_go_with_it_is_refused_by_name(
    client: AsyncClient, given: dict[str, Any], message: str
) -> None:
    response = await client.post("/generate", json={"inputs": "hi", "parameters": given})
    assert response.status_code == 422
    assert message in response.json()["error"]


async def test_several_texts_of_one_search_are_refused(client: AsyncClient) -> None:
    response = await client.post("/v1/completions", json={"prompt": "hi", "num_beams": 2, "n": 2})
    assert response.status_code == 400, response.text
    assert "`num_beams` finds one text" in response.text

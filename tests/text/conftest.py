"""The two default models, fetched once into the cache that the server uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.weights.sources import MINILM, SMOLLM2, resolve
from server.settings import Settings


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return resolve(SMOLLM2.name, cache=Settings().cache)


@pytest.fixture(scope="session")
def minilm() -> Path:
    return resolve(MINILM.name, cache=Settings().cache)

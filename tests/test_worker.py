"""The engine process as it starts."""

from __future__ import annotations

import socket

import pytest

from server import worker
from server.engine.messages import Setup, frame

SETUP = Setup(
    models=[],
    device="cpu",
    dtype="float32",
    kv_memory=None,
    max_batch_tokens=None,
    max_sequences=1,
    itl_target_s=0.1,
    speculation=False,
)


def test_it_ends_quietly_where_nobody_waits_for_its_models_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process may have found a tokenizer that it cannot read, and said so."""
    ours, theirs = socket.socketpair()
    ours.sendall(frame(SETUP))
    ours.close()
    monkeypatch.setattr(worker, "load_all", lambda setup: [])
    with theirs:
        assert worker.serve(theirs) == 1


def test_it_ends_quietly_where_it_is_told_nothing() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        assert worker.serve(theirs) == 1

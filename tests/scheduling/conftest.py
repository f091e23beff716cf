"""`pytest tests/scheduling --hypothesis-profile=thorough` has the state machine take 100,000 steps."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("thorough", max_examples=1000, stateful_step_count=100, deadline=None)

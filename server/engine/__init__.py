"""Owns the loop, in its own process; `Engine` is its face in the process that speaks HTTP."""

from server.engine.engine import Engine

__all__ = ["Engine"]

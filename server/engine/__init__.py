"""Owns the loop, in its own process; `engine.Engine` is its face in the process that speaks HTTP."""

"""Runs what the scheduler planned. The only torch in `server`."""

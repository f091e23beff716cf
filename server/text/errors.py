"""What can go wrong with the files of a tokenizer, before anything is served."""

from __future__ import annotations

from pathlib import Path

from server.errors import ServerError


class TokenizerUnusable(ServerError):
    """The files are missing, broken, or of a kind that is not implemented; the message says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"the tokenizer of {path} cannot be used: {reason}")
        self.path = path


class GenerationConfigUnusable(ServerError):
    """A value in generation_config.json or config.json is not what it must be; the message says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"what {path} says about generating cannot be used: {reason}")
        self.path = path

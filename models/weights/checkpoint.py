"""One face over the two kinds of files that weights come in: safetensors folders and GGUF files.

A checkpoint is opened in milliseconds: nothing is read but headers until a tensor is asked for by name.
Pickle is never read, because reading it runs the code inside.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from models.errors import SourceNotFound, UnsupportedModel
from models.weights.blocks import Blocks


class Format(Enum):
    SAFETENSORS = "safetensors"
    GGUF = "gguf"


class Checkpoint(Protocol):
    """Named tensors and what is known about them. Reading may happen in several threads."""

    @property
    def path(self) -> Path:
        """The folder (safetensors) or the file (GGUF)."""

    @property
    def format(self) -> Format: ...

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says; for GGUF its metadata by key ("llama.block_count"), without long arrays."""

    def names(self) -> list[str]:
        """Every tensor's name as the file has it, sorted."""

    def tensor(self, name: str, quantised: torch.dtype = torch.float32) -> Tensor:
        """One tensor, on the CPU, in the shape that torch gives it ([out, in] for a linear layer).

        In its own dtype; quantised GGUF types come out as `quantised`. It may be a view of the file: copy
        before writing to it. Raises KeyError for an unknown name, UnsupportedModel for a type that is not
        implemented, BrokenCheckpoint where the file does not hold what its header promises.
        """

    def blocks(self, name: str) -> Blocks | None:
        """The same as quantised blocks, for a matrix in one of `blocks.KEPT`; None for any other tensor."""

    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with the weights; `fingerprint.digest` says what is covered."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a model folder or a `.gguf` file.

    Raises SourceNotFound where there is nothing, PickleRefused, BrokenCheckpoint naming the file at fault, or
    UnsupportedModel where `path` is something else.
    """
    # Here, because each of the two imports what the other does not need.
    if path.is_dir():
        from models.weights.safetensors_folder import SafetensorsFolder

        return SafetensorsFolder(path)
    if not path.exists():
        raise SourceNotFound(f"{path} does not exist")
    if path.suffix.lower() == ".gguf":
        from models.weights.gguf_file import GGUFFile

        return GGUFFile(path)
    raise UnsupportedModel(f"{path} is neither a model folder nor a .gguf file")

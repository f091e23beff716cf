"""What can go wrong with a model, as a tree. Each leaf is named for what happened.

ModelError
├── UnsupportedModel        this architecture, option, tokenizer or file type is not one of ours
│   └── PickleRefused       the weights are there, but only as pickle, which runs code when read
├── ModelTooLarge           it needs more memory than there is
├── BrokenCheckpoint        a file of the checkpoint cannot be read as what it claims to be
│   └── WeightsMismatch     tensors missing, left over, or of another shape than the model's
└── SourceError             the weights could not be brought to this machine
    ├── SourceNotFound      there is no such folder, file or hub repository
    ├── SourceUnreachable   it may exist, but nothing that could answer did
    └── ChecksumMismatch    what came is not what was asked for
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class ModelError(Exception):
    """The root. `str(error)` tells whoever starts the server what is wrong, where, and what to do."""


class UnsupportedModel(ModelError):
    """What was asked for is well formed, but is not implemented here."""


class PickleRefused(UnsupportedModel):
    """`files` are the pickled weights that were found where safetensors were looked for, in `place`."""

    def __init__(self, place: Path | str, files: Iterable[str]) -> None:
        self.files = tuple(sorted(files))
        super().__init__(
            f"{place} has its weights only as pickle ({_some(self.files)}), which runs code when read "
            "and is refused; safetensors or GGUF is needed"
        )


class ModelTooLarge(ModelError):
    """`needed` and `memory` in bytes: what loading takes at its peak, and what it may take."""

    def __init__(self, path: Path, *, precision: str, needed: int, memory: int) -> None:
        super().__init__(
            f"{path} takes {needed / 1e9:.2f} GB while it is loaded as {precision}, and of memory "
            f"{memory / 1e9:.2f} GB are free"
        )
        self.needed, self.memory = needed, memory


class BrokenCheckpoint(ModelError):
    """`path` is the file or folder at fault; `reason` completes the sentence "<path> is broken: …"."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is broken: {reason}")
        self.path = path


class WeightsMismatch(BrokenCheckpoint):
    """The checkpoint and the model do not cover each other.

    `missing` are tensors that the model needs and the checkpoint lacks, `left_over` those that it has and
    nobody took, `misshapen` sentences about those whose shape, type or content is wrong.
    """

    def __init__(
        self,
        path: Path,
        *,
        missing: Iterable[str] = (),
        left_over: Iterable[str] = (),
        misshapen: Iterable[str] = (),
    ) -> None:
        self.missing = tuple(sorted(missing))
        self.left_over = tuple(sorted(left_over))
        self.misshapen = tuple(misshapen)
        parts = [
            f"{title}: {', '.join(names)}"
            for title, names in (
                ("missing tensors", self.missing),
                ("left-over tensors", self.left_over),
                ("that do not fit", self.misshapen),
            )
            if names
        ]
        super().__init__(path, "; ".join(parts))


class SourceError(ModelError):
    """The weights could not be brought to this machine."""


class SourceNotFound(SourceError):
    """Whoever knows says that there is no such thing."""


class SourceUnreachable(SourceError):
    """Nobody who could know answered, and nothing is cached; the message says what to do."""


class ChecksumMismatch(SourceError):
    """What came was thrown away. Sums are sha256 in hexadecimal."""

    def __init__(self, name: str, *, expected: str, actual: str) -> None:
        super().__init__(f"{name} has sha256 {actual}, but {expected} was expected; nothing of it was kept")
        self.expected, self.actual = expected, actual


def _some(names: tuple[str, ...], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

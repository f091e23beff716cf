"""Why a model does not run on the kernels."""

from __future__ import annotations

from models.errors import UnsupportedModel


class Unsupported(UnsupportedModel):
    """There is no operation for a `part` of the model, which the message names."""

    def __init__(self, part: str) -> None:
        super().__init__(f"our kernels have no operation for {part}; PyTorch computes it: --kernels torch")


class KernelError(RuntimeError):
    """A call into the library failed. The message says why: memory that is not there, most likely."""

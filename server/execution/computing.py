"""What models compute with: a device, a precision, our kernels where they can be had, and threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.errors import ModelTooLarge
from models.invariance import scores_of
from models.loading import LoadedDecoder, LoadedEncoder, LoadedSeq2Seq, load
from models.native.formats import share_in_blocks
from models.native.library import Library
from models.native.quantise import Quantise
from server.execution.device import (
    DeviceError,
    NotEnoughMemory,
    allocating,
    choose_device,
    choose_dtype,
    free_memory,
    is_batch_invariant,
)
from server.execution.kernels import open_kernels
from server.execution.runner import ModelRunner
from server.execution.threads import usable_cores
from server.scheduling.plan import Results, Step

logger = logging.getLogger(__name__)

Loaded = LoadedDecoder | LoadedEncoder | LoadedSeq2Seq


class NothingToKeep(DeviceError):
    """Blocks of few bits were to be kept, and no model has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """`threads` of the kernels, or of PyTorch where there are none (`kernels` is None).

    `required`: whether somebody asked for `quantise`; if not, what it does not fit stays as it is.
    """

    device: torch.device
    dtype: torch.dtype
    threads: int
    kernels: Library | None = None
    quantise: Quantise | None = None
    required: bool = True

    @classmethod
    def of(
        cls, *, device: str, dtype: str, quantize: str, kernels: str, threads: int | None, cache: Path
    ) -> Computing:
        """As the settings of these names say it. Raises DeviceError.

        PyTorch's threads are shared out here, for the whole process: beside kernels it does little, and more
        than one thread of it would be in the way of theirs.
        """
        place = choose_device(device)
        precision = choose_dtype(dtype, place)
        quantise = None if quantize in ("auto", "none") else Quantise(quantize)
        number = threads or usable_cores()
        library = open_kernels(
            kernels, cache=cache, threads=number, device=place, dtype=precision, quantise=quantise
        )
        torch.set_num_threads(number if library is None else 1)
        if quantize == "auto" and library is not None:
            quantise = Quantise.KEEP
        return cls(
            device=place,
            dtype=precision,
            threads=number,
            kernels=library,
            quantise=quantise,
            required=quantize != "auto",
        )

    def load(self, path: Path, adapter: Path | None = None) -> Loaded:
        """A model folder or `.gguf` file, ready to run. Raises ModelError, and NotEnoughMemory, before
        anything is allocated where that can be told beforehand."""
        try:
            with allocating(str(path)):
                return load(
                    path,
                    device=self.device,
                    dtype=self.dtype,
                    adapter=adapter,
                    kernels=self.kernels,
                    quantise=self.quantise,
                    memory=free_memory(self.device),
                )
        except ModelTooLarge as error:
            raise NotEnoughMemory(f"{error}{self._advice(path)}") from error

    @property
    def precision(self) -> str:
        """That of rows, caches, and weights that are not quantised: "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def kernels_name(self) -> str:
        """What computes: the instruction set of our kernels, or "torch"."""
        return "torch" if self.kernels is None else self.kernels.name

    def kernels_of(self, model: Loaded) -> str:
        """What computes this model, by name; said in the log where kernels do not do all of it."""
        if not self.runs_apart(model):
            return self.kernels_name
        attention = f"attention of {model.config.architecture} in PyTorch"
        logger.warning("our kernels have no operation for it: %s, slower than theirs", attention)
        return f"{self.kernels_name}; {attention}"

    def runs_apart(self, model: Loaded) -> bool:
        """Whether PyTorch computes its attention, and kernels the rest."""
        return self.kernels is not None and any(program is None for program in _programs(model))

    def is_batch_invariant(self, model: Loaded) -> bool:
        """Whether a text of it is the same bit for bit alone and in any company."""
        scores = scores_of(model.config)
        ours = is_batch_invariant(self.device, self.dtype, scores, self.kernels, self.quantise)
        if not self.runs_apart(model):
            return ours
        return ours and is_batch_invariant(self.device, torch.float32, scores)

    def quantisation(self, model: Loaded) -> str | None:
        """What `--quantize` made of a model, "keep", "int8" or "int4"; None: nothing of it is in blocks."""
        if self.quantise is None or not share_in_blocks(_module(model)).blocks:
            return None
        return self.quantise.value

    def check_kept(self, models: Mapping[str, Loaded]) -> None:
        """Says in the log which blocks of each model were kept, by its name.

        Raises NothingToKeep where that was required and is nothing at all: a GPT with blocks may be served
        beside a BERT without, but whoever has no blocks has mistaken the flag, or the file.
        """
        if self.quantise is not Quantise.KEEP:
            return
        shares = {name: share_in_blocks(_module(model)) for name, model in models.items()}
        if self.required and not any(share.blocks for share in shares.values()):
            raise NothingToKeep(
                "--quantize keep: only a .gguf file has blocks to keep, of Q8_0, Q4_0, Q4_1 or Q4_K, and "
                "there are none; int8 and int4 round whatever a file has"
            )
        for name, share in shares.items():
            if share.blocks or self.required:
                logger.info("%s: kept %s; the others are %s", name, share, self.precision)

    @contextmanager
    def threads_for(self, model: Loaded) -> Iterator[None]:
        """While the block runs, PyTorch has all threads if it computes this model, or its attention."""
        before = torch.get_num_threads()
        if self.kernels is None or self.runs_apart(model):
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _advice(self, path: Path) -> str:
        """How a model that is too large would need less."""
        if self.device.type != "cpu":
            return ""
        if path.suffix != ".gguf":
            return "; a .gguf file of few bits needs less"
        return "; --quantize keep needs less" if self.quantise is None else ""


class Threaded:
    """A runner whose model needs PyTorch's threads beside those of the kernels, while it runs."""

    def __init__(self, runner: ModelRunner, computing: Computing, model: Loaded) -> None:
        self._runner, self._computing, self._model = runner, computing, model

    def run(self, step: Step) -> Results:
        with self._computing.threads_for(self._model):
            return self._runner.run(step)


def _programs(model: Loaded) -> tuple[object, ...]:
    """What the kernels run of each stack; None where there is no operation for one."""
    match model:
        case LoadedDecoder():
            return (model.decoder.program,)
        case LoadedEncoder():
            return (model.encoder.program,)
        case LoadedSeq2Seq():
            return model.model.encoder.program, model.model.decoder.program


def _module(model: Loaded) -> nn.Module:
    """All stacks and the head for masked words: nearly everything that has matrices."""
    match model:
        case LoadedDecoder():
            return model.decoder
        case LoadedEncoder():
            return nn.ModuleList(part for part in (model.encoder, model.masked_lm) if part is not None)
        case LoadedSeq2Seq():
            return model.model

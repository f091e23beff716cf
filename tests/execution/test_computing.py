"""What models compute with: memory that does not do, threads that PyTorch gets, blocks that are kept."""

from __future__ import annotations

import errno
import mmap
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf.constants import GGMLQuantizationType as Type

from models.loading import LoadedEncoder
from models.native.library import Library
from models.native.quantise import Quantise
from server.execution import computing as module
from server.execution.computing import Computing, NothingToKeep, Threaded
from server.execution.device import NotEnoughMemory, allocating
from server.execution.kernels import KernelsUnavailable
from server.scheduling.plan import EncodeStep, Results, Step
from tests.models import encoder_configs
from tests.models.test_gguf_parity import (
    LLAMA_METADATA,
    ROPE,
    SIZES,
    llama_tensors,
    random_oracle,
)

CPU = torch.device("cpu")
LLAMA = transformers.LlamaConfig(**SIZES, **ROPE)
PARAMETERS = sum(one.numel() for one in transformers.LlamaForCausalLM(LLAMA).parameters())
MATRICES = 2 * 4 + 1  # qkv, out, gate and up, down of each layer, and the head


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    random_oracle(LLAMA).save_pretrained(folder)
    return folder


def write_gguf(path: Path, *, blocks: Collection[str]) -> Path:
    """The same, with Q8_0 for those matrices whose names have one of `blocks` in them."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in LLAMA_METADATA.items():
        add = {int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"llama.{key}", value)
    for name, tensor in llama_tensors(random_oracle(LLAMA), paired=True).items():
        numbers = np.ascontiguousarray(tensor.numpy())
        if any(one in name for one in blocks):
            writer.add_tensor(name, gguf.quants.quantize(numbers, Type.Q8_0), raw_dtype=Type.Q8_0)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def computing_of(kernels: Library | None = None, quantise: Quantise | None = None) -> Computing:
    return Computing(device=CPU, dtype=torch.float32, threads=2, kernels=kernels, quantise=quantise)


# Memory


@pytest.mark.parametrize("free", [4 * PARAMETERS - 1, 0])
def test_a_model_that_memory_does_not_hold_is_refused_before_anything_is_allocated(
    folder: Path, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    monkeypatch.setattr("models.target.materialize", lambda *_: pytest.fail("it was allocated"))
    with pytest.raises(NotEnoughMemory) as refused:
        computing_of().load(folder)
    said = str(refused.value)
    assert said.startswith(f"{folder} takes {4 * PARAMETERS / 1e9:.2f} GB while it is loaded as float32")
    assert f"{free / 1e9:.2f} GB are free" in said
    assert said.endswith("; a .gguf file of few bits needs less")


def test_memory_that_just_holds_a_model_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 4 * PARAMETERS)
    assert computing_of().load(folder).parameters == PARAMETERS


def test_blocks_that_are_kept_take_less(
    kernels: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "model.gguf", blocks=("blk", "token", "output."))
    monkeypatch.setattr(module, "free_memory", lambda device: int(1.2 * PARAMETERS))
    assert computing_of(kernels, Quantise.KEEP).load(path).parameters > 0
    with pytest.raises(NotEnoughMemory, match="--quantize keep"):
        computing_of(kernels).load(path)


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        lambda: np.empty(1 << 60, np.uint8),
        lambda: mmap.mmap(-1, 1 << 60),
    ],
)
def test_an_allocation_that_fails_says_for_what(allocate: Callable[[], object]) -> None:
    with pytest.raises(NotEnoughMemory, match=r"^not enough memory for a model: "), allocating("a model"):
        allocate()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOENT, "no such file")])
def test_what_is_no_want_of_memory_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))), allocating("a model"):
        raise error


# What is kept


def test_a_file_without_blocks_has_nothing_to_keep(kernels: Library, folder: Path, tmp_path: Path) -> None:
    computing = computing_of(kernels, Quantise.KEEP)
    without = write_gguf(tmp_path / "model.gguf", blocks=())
    for path in (folder, without):
        with pytest.raises(NothingToKeep, match=r"only a \.gguf file has blocks to keep"):
            computing.check_kept({"m": computing.load(path)})


def test_what_of_a_file_was_kept_is_counted(
    kernels: Library, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    computing = computing_of(kernels, Quantise.KEEP)
    kept = computing.load(write_gguf(tmp_path / "model.gguf", blocks=("ffn_down", "attn_output")))
    plain = computing.load(folder)
    with caplog.at_level("INFO", logger=module.__name__):
        computing.check_kept({"kept": kept, "plain": plain})  # one of them is enough
    said = [record.message for record in caplog.records]
    assert said[0].startswith(f"kept: kept 4 of {MATRICES} matrices, ")
    assert said[1].startswith(f"plain: kept 0 of {MATRICES} matrices, 0.0 of ")
    assert all(line.endswith("the others are float32") for line in said)
    assert (computing.quantisation(kept), computing.quantisation(plain)) == ("keep", None)


@pytest.mark.parametrize(("kernels_named", "kept"), [("auto", "keep"), ("torch", None)])
def test_by_itself_blocks_are_kept_where_there_are_any(
    kernels: Library,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kernels_named: str,
    kept: str | None,
) -> None:
    monkeypatch.setattr("server.execution.kernels.open_library", lambda *_, **__: kernels)
    computing = Computing.of(
        device="cpu", dtype="float32", quantize="auto", kernels=kernels_named, threads=2, cache=tmp_path
    )
    blocks = computing.load(write_gguf(tmp_path / "model.gguf", blocks=("blk",)))
    plain = computing.load(folder)
    computing.check_kept({"plain": plain})  # nothing to keep, and nobody asked
    assert (computing.quantisation(blocks), computing.quantisation(plain)) == (kept, None)


@pytest.mark.parametrize("quantise", [Quantise.INT8, Quantise.INT4])
def test_weights_that_are_rounded_are_reported_so(kernels: Library, folder: Path, quantise: Quantise) -> None:
    computing = computing_of(kernels, quantise)
    model = computing.load(folder)
    computing.check_kept({"m": model})
    assert computing.quantisation(model) == quantise.value
    assert computing_of(kernels).quantisation(model) is None


# Threads


@pytest.mark.parametrize(("family", "threads"), [("deberta-v2, as v3", 2), ("bert, plain", 1)])
def test_pytorch_has_threads_for_attention_that_kernels_do_not_know(
    kernels: Library, tmp_path: Path, family: str, threads: int
) -> None:
    transformers.AutoModelForMaskedLM.from_config(encoder_configs.CONFIGS[family]()).save_pretrained(tmp_path)
    computing = computing_of(kernels)
    model = computing.load(tmp_path)
    assert isinstance(model, LoadedEncoder)
    seen = list[int]()

    class Seeing:
        def run(self, step: Step) -> Results:
            seen.append(torch.get_num_threads())
            return Results()

    torch.set_num_threads(1)
    Threaded(Seeing(), computing, model).run(EncodeStep(model="m", passages=()))
    assert seen == [threads]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("kernels_named", "threads"), [("torch", 2), ("auto", 1)])
def test_beside_kernels_pytorch_has_one_thread(
    kernels: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels_named: str, threads: int
) -> None:
    monkeypatch.setattr("server.execution.kernels.open_library", lambda *_, **__: kernels)
    computing = Computing.of(
        device="cpu", dtype="float32", quantize="none", kernels=kernels_named, threads=2, cache=tmp_path
    )
    assert torch.get_num_threads() == threads
    assert computing.threads == 2
    assert computing.kernels_name == ("torch" if kernels_named == "torch" else kernels.name)


def test_quantised_weights_without_kernels_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(KernelsUnavailable, match="--quantize int4 needs kernels of our own"):
        Computing.of(
            device="cpu", dtype="auto", quantize="int4", kernels="torch", threads=None, cache=tmp_path
        )

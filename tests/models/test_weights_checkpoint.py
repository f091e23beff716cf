"""Opening a checkpoint gives back exactly what was saved, and says what is wrong where it cannot."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from safetensors.torch import save_file

from models.errors import BrokenCheckpoint, ModelError, PickleRefused, SourceNotFound, UnsupportedModel
from models.weights.checkpoint import Format, open_checkpoint

A = torch.arange(6, dtype=torch.float32).view(2, 3)
B = torch.ones(4, dtype=torch.bfloat16)


def save_folder(folder: Path, *, sharded: bool) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    if not sharded:
        save_file({"a": A, "b": B}, folder / "model.safetensors")
        return folder
    save_file({"a": A}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": B}, folder / "model-00002-of-00002.safetensors")
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def save_gguf(path: Path, tensors: dict[str, tuple[np.ndarray[Any, Any], Type]]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_array("tokenizer.ggml.tokens", [f"token{i}" for i in range(2000)])
    writer.add_array("tokenizer.ggml.scores", [float(i) for i in range(2000)])
    writer.add_array("general.languages", ["en", "fr"])
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind: Type, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """[rows, bytes] uint8: any bytes are valid blocks; about one scale in thirty is infinite or no number."""
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    return np.random.default_rng(0).integers(
        0, 256, (rows, columns // block_size * block_bytes), dtype=np.uint8
    )


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_gives_back_its_config_and_tensors_in_their_own_dtype(tmp_path: Path, sharded: bool) -> None:
    checkpoint = open_checkpoint(save_folder(tmp_path, sharded=sharded))
    assert checkpoint.format is Format.SAFETENSORS
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.names() == ["a", "b"]
    assert torch.equal(checkpoint.tensor("a"), A)
    assert checkpoint.tensor("b").dtype == torch.bfloat16


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"whatever")
    with pytest.raises(PickleRefused, match=r"pytorch_model\.bin.*safetensors"):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_says_which_files_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_folder_of_gguf_files_says_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(SourceNotFound, match=r"name one of them: tiny\.gguf"):
        open_checkpoint(tmp_path)


def test_weights_without_a_config_are_broken(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match=r"has no config\.json"):
        open_checkpoint(tmp_path)


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    (save_folder(tmp_path, sharded=False) / "config.json").write_text("{")
    with pytest.raises(BrokenCheckpoint, match=r"config\.json is broken"):
        open_checkpoint(tmp_path)


def test_a_truncated_safetensors_file_is_named(tmp_path: Path) -> None:
    file = save_folder(tmp_path, sharded=False) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BrokenCheckpoint, match=r"model\.safetensors is broken"):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (save_folder(tmp_path, sharded=True) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BrokenCheckpoint, match=r"model-00002-of-00002\.safetensors is missing"):
        open_checkpoint(tmp_path)


def test_a_shard_without_the_tensor_that_the_index_promises_is_named(tmp_path: Path) -> None:
    save_file({"c": B}, save_folder(tmp_path, sharded=True) / "model-00002-of-00002.safetensors")
    with pytest.raises(BrokenCheckpoint, match="it holds b, and it does not"):
        open_checkpoint(tmp_path)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BrokenCheckpoint, match="is not the name of a shard"):
        open_checkpoint(tmp_path)


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(UnsupportedModel, match=r"model\.onnx"):
        open_checkpoint(tmp_path / "model.onnx")
    with pytest.raises(SourceNotFound, match="nowhere"):
        open_checkpoint(tmp_path / "nowhere")


def test_gguf_metadata_is_flat_and_leaves_vocabularies_out(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_gguf(tmp_path / "tiny.gguf", {"a": (A.numpy(), Type.F32)}))
    assert checkpoint.format is Format.GGUF
    assert checkpoint.config == {
        "general.architecture": "llama",
        "llama.block_count": 3,
        "general.languages": ["en", "fr"],
    }


def test_gguf_tensors_have_torch_shape_and_plain_types_stay_what_they_are(tmp_path: Path) -> None:
    tensors = {
        "single": (A.numpy(), Type.F32),
        "half": (A.half().numpy(), Type.F16),
        "brain": (A.bfloat16().view(torch.uint8).numpy(), Type.BF16),
    }
    checkpoint = open_checkpoint(save_gguf(tmp_path / "tiny.gguf", tensors))
    assert checkpoint.names() == ["brain", "half", "single"]
    for name, dtype in (("single", torch.float32), ("half", torch.float16), ("brain", torch.bfloat16)):
        tensor = checkpoint.tensor(name)
        assert (tensor.dtype, tensor.shape) == (dtype, (2, 3))
        assert torch.equal(tensor.float(), A)


@pytest.mark.parametrize(
    "kind", [Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K]
)
def test_every_quantised_type_equals_the_gguf_package_bit_for_bit(tmp_path: Path, kind: Type) -> None:
    blocks = random_blocks(kind, rows=600, columns=1024)  # more blocks than are done at once
    tensor = open_checkpoint(save_gguf(tmp_path / "tiny.gguf", {"w": (blocks, kind)})).tensor("w")
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, kind)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (600, 1024))
    np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quantised_weights_come_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    blocks = random_blocks(Type.Q4_1, rows=600, columns=1024)
    checkpoint = open_checkpoint(save_gguf(tmp_path / "tiny.gguf", {"w": (blocks, Type.Q4_1)}))
    rounded = checkpoint.tensor("w", dtype)
    torch.testing.assert_close(rounded, checkpoint.tensor("w").to(dtype), rtol=0, atol=0, equal_nan=True)


def test_an_unsupported_type_is_named_with_its_tensor(tmp_path: Path) -> None:
    blocks = random_blocks(Type.Q2_K, rows=1, columns=256)
    checkpoint = open_checkpoint(save_gguf(tmp_path / "tiny.gguf", {"blk.0.w": (blocks, Type.Q2_K)}))
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.w is Q2_K; supported are F32, .*Q6_K"):
        checkpoint.tensor("blk.0.w")


def test_a_truncated_gguf_names_the_tensor_that_is_cut(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "tiny.gguf", {"a": (A.numpy(), Type.F32)})
    path.write_bytes(path.read_bytes()[:-32])  # the padding and a part of `a`
    with pytest.raises(BrokenCheckpoint, match=r"tiny\.gguf is broken: it ends before a does"):
        open_checkpoint(path).tensor("a")


def test_a_gguf_cut_or_garbled_anywhere_in_its_header_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = save_gguf(tmp_path / "tiny.gguf", {"a": (A.numpy(), Type.F32)}).read_bytes()
    header = len(whole) - 64
    broken = tmp_path / "broken.gguf"
    for end in range(0, header, max(1, header // 200)):
        broken.write_bytes(whole[:end])
        with pytest.raises(ModelError, match=r"broken\.gguf"):
            open_checkpoint(broken)


def test_a_count_beyond_the_file_is_broken_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 4, 2**60))
    with pytest.raises(BrokenCheckpoint, match=r"huge\.gguf"):
        open_checkpoint(path)


def test_an_old_gguf_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "old.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    with pytest.raises(UnsupportedModel, match="version 1"):
        open_checkpoint(path)


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        save_folder_at = tmp_path / name
        save_folder_at.mkdir()
        save_folder(save_folder_at, sharded=False)
    save_file({"a": A, "b": B * 2}, tmp_path / "three" / "model.safetensors")
    one, two, three = (open_checkpoint(tmp_path / name).fingerprint() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


@pytest.mark.parametrize(
    "file",
    [
        "spiece.model",
        "spm.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
        "source.spm",
        "target.spm",
        "target_vocab.json",
        "added_tokens.json",
        "chat_template.json",
        "generation_config.json",
    ],
)
def test_the_fingerprint_follows_every_file_that_a_text_is_made_with(tmp_path: Path, file: str) -> None:
    save_folder(tmp_path, sharded=False)
    seen = {open_checkpoint(tmp_path).fingerprint()}
    for content in ("one", "two"):
        (tmp_path / file).write_text(content)
        seen.add(open_checkpoint(tmp_path).fingerprint())
    assert len(seen) == 3


def test_a_file_larger_than_the_windows_is_told_apart_at_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.weights import fingerprint

    monkeypatch.setattr(fingerprint, "WINDOW_BYTES", 16)
    monkeypatch.setattr(fingerprint, "WINDOWS", 4)
    file = tmp_path / "large.gguf"
    content = bytearray(1000)
    file.write_bytes(content)
    seen = {fingerprint.digest([file])}
    for place in (0, 999):
        changed = content.copy()
        changed[place] = 1
        file.write_bytes(changed)
        seen.add(fingerprint.digest([file]))
    assert len(seen) == 3

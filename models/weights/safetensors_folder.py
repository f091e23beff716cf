"""Reads a Hugging Face model folder: config.json beside model.safetensors, whole or in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import BrokenCheckpoint, PickleRefused, SourceNotFound
from models.weights.checkpoint import Format
from models.weights.fingerprint import digest_soon

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

# Beside the weights, what decides over the text that comes out.
_SHAPING = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "target_vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
    "chat_template.json",
    "chat_template.jinja",  # names the tokens that end a turn
    "additional_chat_templates/default.jinja",
)


class _Shard(Protocol):
    """What we use of `safe_open`, which has no types."""

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> Tensor: ...


class SafetensorsFolder:
    """A `Checkpoint`. Shards stay mapped into memory for as long as it lives."""

    format = Format.SAFETENSORS

    def __init__(self, path: Path) -> None:
        """Open every shard; raises as `open_checkpoint` does."""
        self.path = path
        shards = _shards(path)
        self.config = read_json(path / "config.json")
        self._files = {shard: _open(path / shard) for shard in sorted(set(shards.values()))}
        self._home: dict[str, str] = {}
        for shard, file in self._files.items():
            self._home |= dict.fromkeys(file.keys(), shard)
        for name, shard in shards.items():
            if name and self._home.get(name) != shard:
                raise BrokenCheckpoint(path / shard, f"{INDEX} says that it holds {name}, and it does not")
        shaping = [path / name for name in _SHAPING if (path / name).is_file()]
        self._digest = digest_soon([*shaping, *(path / shard for shard in self._files)])

    def names(self) -> list[str]:
        return sorted(self._home)

    def tensor(self, name: str, quantised: torch.dtype = torch.float32) -> Tensor:
        shard = self._home[name]
        try:
            return self._files[shard].get_tensor(name)
        except SafetensorError as error:
            raise BrokenCheckpoint(self.path / shard, f"{name} cannot be read: {error}") from error

    def blocks(self, name: str) -> None:
        """There are none in such files."""

    def fingerprint(self) -> str:
        return self._digest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BrokenCheckpoint where there is none, naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenCheckpoint(path.parent, f"it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(path, f"not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise BrokenCheckpoint(path, "a JSON object was expected")
    return content


def _shards(folder: Path) -> dict[str, str]:
    """Which file each tensor is said to be in; {"": file} where one file holds all."""
    if (folder / WEIGHTS).is_file():
        return {"": WEIGHTS}
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise BrokenCheckpoint(folder / INDEX, "it has no `weight_map`")
    for shard in where.values():
        # A shard is a plain name: an index must not lead out of its folder.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BrokenCheckpoint(folder / INDEX, f"{shard!r} is not the name of a shard")
    return where


def _no_weights(folder: Path) -> Exception:
    pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    if pickles:
        return PickleRefused(folder, pickles)
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs:
        return SourceNotFound(f"{folder} holds GGUF files; name one of them: {', '.join(ggufs)}")
    return SourceNotFound(f"{folder} has neither {WEIGHTS} nor {INDEX}")


def _open(path: Path) -> _Shard:
    try:
        return cast(_Shard, safe_open(path, framework="pt"))
    except FileNotFoundError:
        raise BrokenCheckpoint(path.parent, f"{path.name} is missing, which {INDEX} names") from None
    except (OSError, SafetensorError) as error:
        raise BrokenCheckpoint(path, f"not readable as safetensors: {error}") from error

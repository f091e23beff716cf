"""How fetched files come to lie in the cache: complete and verified, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from models.errors import ChecksumMismatch, SourceNotFound

# What makes a model folder. Everything else stays where it is, pickles and Python files above all.
MODEL_FILES = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
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
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "source.spm",
    "target.spm",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/*.json",
    "[2-9]_Dense/config.json",
    "[2-9]_Dense/model.safetensors",
    "[2-9]_Normalize/config.json",
)


def belongs(name: str) -> bool:
    """Whether a file, named by its path within a repository or wheel, is a part of a model."""
    if ".." in PurePosixPath(name).parts or name.endswith((".bin", ".pt", ".py")):
        return False
    return any(name.count("/") == kind.count("/") and fnmatchcase(name, kind) for kind in MODEL_FILES)


@contextmanager
def keep(folder: Path, *, unfinished: Path | None = None) -> Iterator[Path]:
    """A folder to fill; it becomes `folder` when the block ends well, in one step.

    Without `unfinished` it is a new one that vanishes when the block fails. With it, what is there stays for
    the next attempt to go on from.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if unfinished is not None:
        unfinished.mkdir(exist_ok=True)
        yield unfinished
        _put(unfinished, folder)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        unfinished = Path(scratch) / "unfinished"
        unfinished.mkdir()
        yield unfinished
        _put(unfinished, folder)


def _put(unfinished: Path, folder: Path) -> None:
    """The last to finish wins: two processes that fetch the same thing bring the same thing."""
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def verify(path: Path, sha256: str) -> None:
    """Delete `path` and raise ChecksumMismatch unless its content has that sum."""
    if not path.is_file():
        raise SourceNotFound(f"{path.name} did not come with the rest")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        path.unlink()
        raise ChecksumMismatch(path.name, expected=sha256, actual=actual)

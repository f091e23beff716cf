"""Reads what sentence-transformers files say about turning hidden states into one vector."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.config import Activation, Pooling
from models.errors import BrokenCheckpoint, PickleRefused, UnsupportedModel, WeightsMismatch
from models.families.reading import choice, flag, refuse, whole
from models.sentence import Dense, Sentence
from models.weights.fingerprint import digest

KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
ORDER = re.compile(r"Transformer(,Pooling(,Dense)*(,Normalize)?)?")
# Keys of older files, in the order in which what they ask for is laid side by side.
MODES = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT_LEN,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}
POOLINGS = {pooling.value: pooling for pooling in Pooling}
ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": Activation.TANH,
    "torch.nn.modules.activation.ReLU": Activation.RELU,
    "torch.nn.modules.activation.GELU": Activation.GELU,
    "torch.nn.modules.activation.SiLU": Activation.SILU,
    "torch.nn.modules.linear.Identity": None,
}
WHOLE_TEXT = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSentence:
    """`normalize`: whether the model's author has vectors scaled to unit length."""

    module: Sentence
    normalize: bool
    fingerprints: tuple[str, ...]  # of the files that decide what it does


def load_sentence(folder: Path, hidden_size: int, device: torch.device) -> LoadedSentence:
    """Read `modules.json` and the folders that it names; mean, not normalised, where there is none.

    `hidden_size`: of the encoder. Raises UnsupportedModel for a module, pooling or option that is not
    implemented, PickleRefused where weights are there as pickle only, BrokenCheckpoint naming a file that
    cannot be read, WeightsMismatch where weights do not fit.
    """
    modules = _modules(folder)
    poolings: Sequence[Pooling] = (Pooling.MEAN,)
    dense, size = list[Dense](), hidden_size
    for kind, path in modules:
        if kind == "Pooling":
            poolings = _poolings(_read(path / "config.json", dict), hidden_size)
            size = hidden_size * len(poolings)
        if kind == "Dense":
            dense.append(_dense(path, size))
            size = dense[-1].linear.out_features
        if kind == "Normalize" and (path / "config.json").is_file():
            refuse(_read(path / "config.json", dict), WHOLE_TEXT)
    return LoadedSentence(
        module=Sentence(poolings, dense, hidden_size).to(device).eval(),
        normalize=any(kind == "Normalize" for kind, _ in modules),
        fingerprints=tuple(digest([file]) for file in _deciding(folder, modules)),
    )


def _deciding(folder: Path, modules: Sequence[tuple[str, Path]]) -> list[Path]:
    """The files behind a sentence's vector; the encoder has its own fingerprint."""
    own = [path for kind, path in modules if kind != "Transformer"]
    files = [folder / "modules.json", *(path / name for path in own for name in ("config.json", WEIGHTS))]
    return [file for file in files if file.is_file()]


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """(kind, folder) of each entry of modules.json, in order."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    modules = [_module(file, entry) for entry in _read(file, list)]
    kinds = [kind for kind, _ in modules]
    if not ORDER.fullmatch(",".join(kinds)):
        raise UnsupportedModel(f"{file} has {', '.join(kinds)}; supported, in this order: {', '.join(KINDS)}")
    if modules[0][1] != folder:
        raise UnsupportedModel(
            f"{file} has the encoder in {modules[0][1].name}; it must lie beside that file"
        )
    return modules


def _module(file: Path, entry: Any) -> tuple[str, Path]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        raise BrokenCheckpoint(file, "every module needs a `type`")
    kind, path = entry["type"].rpartition(".")[2], Path(str(entry.get("path", "")))
    if kind not in KINDS:
        raise UnsupportedModel(f"{file} has the module {kind}; supported: {', '.join(KINDS)}")
    if ".." in path.parts or path.is_absolute():
        raise BrokenCheckpoint(file, f"{str(path)!r} leads out of the model's folder")
    return kind, file.parent / path


def _poolings(raw: Mapping[str, Any], hidden_size: int) -> Sequence[Pooling]:
    """Of newer files by their names, of older ones a flag each."""
    refuse(raw, {"include_prompt": True})
    refuse(raw, {"word_embedding_dimension": hidden_size, "embedding_dimension": hidden_size})
    newer = raw.get("pooling_mode")
    if newer is not None:
        names = newer if isinstance(newer, list) and newer else [newer]
        return [choice({"pooling_mode": name}, "pooling_mode", POOLINGS) for name in names]
    wanted = [key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True]
    if not wanted or not MODES.keys() >= set(wanted):
        raise UnsupportedModel(f"pooling by {', '.join(wanted) or 'nothing'}; supported: {', '.join(MODES)}")
    return [pooling for key, pooling in MODES.items() if key in wanted]


def _dense(folder: Path, size: int) -> Dense:
    """The layer in `folder`, for vectors of `size`."""
    raw = _read(folder / "config.json", dict)
    refuse(raw, {"in_features": size, "use_residual": False, **WHOLE_TEXT})
    activation = choice(raw, "activation_function", ACTIVATIONS, "torch.nn.modules.activation.Tanh")
    dense = Dense(size, whole(raw, "out_features"), activation, bias=flag(raw, "bias", True))
    _fill(dense, folder)
    return dense.requires_grad_(False)


def _fill(dense: Dense, folder: Path) -> None:
    file = folder / WEIGHTS
    if not file.is_file() and (folder / PICKLE).is_file():
        raise PickleRefused(folder, [PICKLE])
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BrokenCheckpoint(file, f"not readable as safetensors: {error}") from error
    ours, theirs = dict(dense.named_parameters()), tensors.keys()
    if ours.keys() != theirs:
        raise WeightsMismatch(file, missing=ours.keys() - theirs, left_over=theirs - ours.keys())
    misshapen = [
        f"{name} is {list(tensors[name].shape)}, not {list(parameter.shape)}"
        for name, parameter in ours.items()
        if tensors[name].shape != parameter.shape
    ]
    if misshapen:
        raise WeightsMismatch(file, misshapen=misshapen)
    dense.load_state_dict(tensors)  # cast to float32


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(path, f"not readable as JSON: {error}") from error
    if not isinstance(content, kind):
        raise BrokenCheckpoint(path, f"a JSON {'object' if kind is dict else 'array'} was expected")
    return content

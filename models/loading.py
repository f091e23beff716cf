"""From a path to a model that is ready to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.config import EncoderConfig
from models.encoder import Encoder
from models.errors import BrokenCheckpoint, UnsupportedModel
from models.families.naming import Family
from models.families.registry import family_of
from models.filling import fill, known_names, materialize, origins_of
from models.heads import MaskedLM, MaskedLMHead, Pooling
from models.weights.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder ready to run. `masked_lm` is None where the checkpoint has no masked-LM head."""

    config: EncoderConfig
    encoder: Encoder
    masked_lm: MaskedLM | None
    pooling: Pooling
    normalize: bool  # whether the model's author has embeddings scaled to unit length
    fingerprint: str
    parameters: int


def load(path: Path, *, device: torch.device, dtype: torch.dtype) -> LoadedEncoder:
    """Load a model folder or `.gguf` file.

    Raises UnsupportedModel naming what is not implemented, WeightsMismatch listing every tensor that is
    missing or left over, and what `open_checkpoint` raises.
    """
    checkpoint = open_checkpoint(path)
    family = family_of(checkpoint.config)
    config = family.config(checkpoint.config)
    if not isinstance(config, EncoderConfig):
        raise UnsupportedModel("x")
    return _load_encoder(checkpoint, family, config, device, dtype)


def _load_encoder(
    checkpoint: Checkpoint, family: Family, config: EncoderConfig, device: torch.device, dtype: torch.dtype
) -> LoadedEncoder:
    with torch.device("meta"):
        encoder = Encoder(config)
        head = MaskedLMHead(config, encoder.embeddings.words)
    known = known_names(checkpoint, family)
    has_head = any(origin.name in known for origin in origins_of("head.bias", family))
    parts = nn.ModuleList([encoder, head] if has_head else [encoder])
    materialize(parts, device, dtype)
    targets: dict[str, Tensor] = dict(encoder.named_parameters())
    if has_head:
        targets |= _own_parameters(head)
    fill(targets, checkpoint, family, head_dim=config.hidden_size // config.heads)
    parts.eval()
    pooling, normalize = _sentence_settings(checkpoint.path)
    return LoadedEncoder(
        config=config,
        encoder=encoder,
        masked_lm=MaskedLM(encoder, head) if has_head else None,
        pooling=pooling,
        normalize=normalize,
        fingerprint=_fingerprint(checkpoint.fingerprint(), dtype, device),
        parameters=sum(parameter.numel() for parameter in parts.parameters()),
    )


def _own_parameters(head: MaskedLMHead) -> Mapping[str, Tensor]:
    """Without the table that it shares with the encoder."""
    return {f"head.{name}": tensor for name, tensor in head.named_parameters() if name != "words.weight"}


def _fingerprint(weights: str, dtype: torch.dtype, device: torch.device) -> str:
    """Changes with whatever may change a result: weights, precision, the kind of device, torch's kernels."""
    parts = (weights, str(dtype), device.type, torch.__version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _sentence_settings(folder: Path) -> tuple[Pooling, bool]:
    """Pooling and normalisation as sentence-transformers files state them; mean, not normalised, without."""
    modules = _read_json(folder / "modules.json", [])
    normalize = any(module.get("type", "").endswith(".Normalize") for module in modules)
    for module in modules:
        if module.get("type", "").endswith(".Pooling"):
            return _pooling(_read_json(folder / module["path"] / "config.json", {})), normalize
    return Pooling.MEAN, normalize


def _pooling(raw: Mapping[str, Any]) -> Pooling:
    modes = [key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": Pooling.MEAN, "pooling_mode_cls_token": Pooling.CLS}
    if len(modes) != 1 or modes[0] not in known:
        raise UnsupportedModel(f"pooling by {', '.join(modes) or 'nothing'}; supported: {', '.join(known)}")
    return known[modes[0]]


def _read_json(path: Path, absent: Any) -> Any:
    if not path.is_file():
        return absent
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenCheckpoint(path, f"not readable as JSON: {error}") from error

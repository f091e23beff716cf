"""The tokenizer of a folder with vocab.json and merges.txt: BPE over bytes (Radford et al. 2019, GPT-2).

Where the vocabulary has a mask it is RoBERTa's (Liu et al. 2019) or BART's (Lewis et al. 2020), which put
their own tokens around a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from server.text.json_files import read_object
from server.text.special_tokens import known_names
from server.text.vocabulary import id_of, surround

_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}


def read_byte_level(
    path: Path, config: Mapping[str, Any], stated: Mapping[str, str]
) -> tuple[Tokenizer, dict[str, str]]:
    """The backend, and its special tokens by role. Raises ValueError, and what `tokenizers` raises."""
    backend = _bytes(path, config)
    if "<mask>" in read_object(path / "vocab.json"):
        return backend, _as_roberta(backend, config, {**_ROBERTA, **stated})
    names = known_names(backend, {**_GPT2, **stated})
    if config.get("add_bos_token"):
        surround(backend, before=names["bos_token"], after=None)
    return backend, names


def _bytes(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    backend = Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return backend


def _as_roberta(backend: Tokenizer, config: Mapping[str, Any], names: dict[str, str]) -> dict[str, str]:
    # The mask takes the space before it along, as a word would.
    backend.add_special_tokens([AddedToken(names["mask_token"], lstrip=True, normalized=False, special=True)])
    names = known_names(backend, names)
    backend.post_processor = processors.RobertaProcessing(
        (names["sep_token"], id_of(backend, names["sep_token"])),
        (names["cls_token"], id_of(backend, names["cls_token"])),
        trim_offsets=True,
        add_prefix_space=config.get("add_prefix_space", False),
    )
    return names

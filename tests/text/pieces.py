"""Small SentencePiece models of every shape, trained on the licence and some foreign words in a blink."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import sentencepiece

from server.text.sentencepiece_file import Kind

_LICENCE = Path(__file__).parents[2] / "LICENSE"
_FOREIGN = "naïve café — 日本語のテキスト, 各位 Ελληνικά 🙂👍🏽 übergroß <tag> ``quoted'' 1,234,567 ẹ̀kọ́"

BYTES = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
SHAPES: dict[str, dict[str, Any]] = {
    "unigram": {},
    "unigram, case folded": {"normalization_rule_name": "nmt_nfkc_cf"},
    "unigram, nfkc": {"normalization_rule_name": "nfkc"},
    "unigram, bytes": {"byte_fallback": True},
    "unigram, across words": {"split_by_whitespace": False},
    "unigram, no prefix": {"add_dummy_prefix": False},
    "unigram, own words": {"user_defined_symbols": ["<sep>", "\u2581foo"]},
    "bpe": {"model_type": "bpe"},
    "bpe, every space": {"model_type": "bpe", "remove_extra_whitespaces": False},
    "bpe, as LLaMA": {"model_type": "bpe", "split_digits": True, **BYTES},
    "bpe, as Gemma": {
        "model_type": "bpe",
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<sep>", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581"],
        **BYTES,
    },
}


def train(*lines: str, **options: Any) -> bytes:
    """A model file. `options` are those of SentencePiece's trainer."""
    model = io.BytesIO()
    given = {"vocab_size": 500, "character_coverage": 1.0, "hard_vocab_limit": False} | options
    text = [*_LICENCE.read_text().splitlines(), *[_FOREIGN] * 20, *lines]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, minloglevel=2, num_threads=1, **given
    )
    return model.getvalue()


@cache
def shape(name: str) -> bytes:
    return train(**SHAPES[name])


def with_kinds(model: bytes, places: Iterable[int], kind: Kind) -> bytes:
    """The same file, with another type for some of its pieces."""
    message = import_module("sentencepiece.sentencepiece_model_pb2").ModelProto.FromString(model)
    for place in places:
        message.pieces[place].type = kind.value
    changed: bytes = message.SerializeToString()
    return changed


def processor(model: bytes) -> Any:
    """SentencePiece itself."""
    return sentencepiece.SentencePieceProcessor(model_proto=model)

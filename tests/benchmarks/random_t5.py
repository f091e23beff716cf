"""Writes a T5 of random weights: the shape of t5-small, 60 M parameters, and a tokenizer of T5's shape.

    python -m tests.benchmarks.random_t5 FOLDER

What it says means nothing, but it costs what the real one costs. The pieces are the words that the default
encoder's vocabulary has, so that a text has about as many tokens as with T5's own.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import T5Config, T5ForConditionalGeneration

from models.weights.sources import resolve
from server.settings import Settings

PIECES, SENTINELS = 32_000, 100
SPECIAL = ("<pad>", "</s>", "<unk>")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = T5Config(decoder_start_token_id=0, tie_word_embeddings=True)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    _tokenizer().save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def _tokenizer() -> Tokenizer:
    """Unigram pieces (Kudo 2018) with T5's special tokens before and its sentinels behind."""
    ranked = list(dict.fromkeys([*SPECIAL, "\u2581", *_pieces()]))[:PIECES]
    vocabulary = [(piece, -math.log(2 + rank)) for rank, piece in enumerate(ranked)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))]
    backend.add_special_tokens([AddedToken(name, special=True) for name in (*SPECIAL, *sentinels)])
    return backend


def _pieces() -> list[str]:
    """Words with the space before them; what goes on within a word without."""
    lines = (resolve("all-minilm-l6-v2", cache=Settings().cache) / "vocab.txt").read_text().split("\n")
    words = [line for line in lines if line and not line.startswith("[")]
    letters = sorted({letter for word in words for letter in word.removeprefix("##")})
    spelled = [word[2:] if word.startswith("##") else "\u2581" + word for word in words]
    return [*letters, *spelled, *(word for word in words if not word.startswith("##"))]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

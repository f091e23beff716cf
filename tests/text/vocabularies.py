"""Small tokenizers of the three kinds, trained on a few words in milliseconds."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary

WORDS = [
    "the quick brown fox jumps over the lazy dog, and doesn't it?",
    "Paris is the capital of France. 1234567890",
    "naïve café — 日本語のテキスト 🙂👍🏽 e\u0301 übergroß",
]


@cache
def byte_level() -> Backend:
    """As GPT-2, LLaMA 3, Qwen and SmolLM2 have it; every text has a spelling."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    return backend


@cache
def sentence_piece() -> Backend:
    """As LLaMA 1 and 2 and Mistral have it: U+2581 for a space, bytes for unknown characters."""
    backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    return _with_plain_byte_tokens(backend)


def _with_plain_byte_tokens(backend: Backend) -> Backend:
    """The trainer makes special what it is given; of these, only the first three are meant to be."""
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    return Backend.from_str(json.dumps(state))


@cache
def word_piece() -> Backend:
    """As BERT has it, uncased."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    backend.train_from_iterator(WORDS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


KINDS = {"byte level": byte_level, "sentence piece": sentence_piece, "word piece": word_piece}


@cache
def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(Vocabulary(backend=KINDS[kind]()))

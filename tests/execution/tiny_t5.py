"""A T5 of two layers and random weights, with the vocabulary of the tests' decoder."""

from __future__ import annotations

import torch

from models.families import t5
from models.layers.linear import prepack
from models.seq2seq import Seq2Seq
from tests.execution.test_generation import CONFIG as DECODER

CONFIG = t5.config(
    {
        "model_type": "t5",
        "vocab_size": DECODER.vocab_size,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": 0,
        "feed_forward_proj": "gated-gelu",
    }
)


def build(dtype: torch.dtype) -> Seq2Seq:
    """Sure of itself, so that a small mistake changes what it says."""
    torch.manual_seed(0)
    model = Seq2Seq(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = (parameter.data * 3).to(dtype)
    prepack(model)
    return model

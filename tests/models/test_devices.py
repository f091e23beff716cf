"""Whatever a model makes while it runs, it makes on its own device, whichever that is.

Shown without a GPU, on torch's "meta" device, which holds shapes only: every operation is looked at, and none
may take tensors of two devices. A GPU would refuse them, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.config import DecoderConfig, EncoderConfig
from models.decoder import Decoder
from models.encoder import Encoder
from models.families.registry import read
from models.filling import materialize
from models.kv_cache import KVCache
from models.layers.lora import Mixing
from models.ops.paging import Paging, Sources
from models.seq2seq import Seq2Seq
from tests.models import decoder_configs_a, decoder_configs_b, encoder_configs, seq2seq_configs

META = torch.device("meta")
# What brings things from one device to another.
MOVES = (torch.ops.aten.to.dtype_layout, torch.ops.aten.to.device, torch.ops.aten._to_copy.default)
CONFIGS = {
    **decoder_configs_a.CONFIGS,
    **decoder_configs_b.CONFIGS,
    **encoder_configs.CONFIGS,
    **seq2seq_configs.CONFIGS,
}
ONE_OF_EACH_KIND = (  # of positions, attention, norms, embeddings
    "gpt2, plain",
    "bloom, plain",
    "falcon, ALiBi, rounded slopes",
    "gptj, part of a head turned",
    "gpt_neox, dynamic scaling",
    "llama, YaRN",
    "gemma2, plain",
    "gemma3_text, plain",
    "stablelm, normed queries and keys",
    "olmo, clipped, biases",
    "olmo2, plain",
    "opt, norms behind, narrow embeddings",
    "bert, plain",
    "albert, plain",
    "mpnet, plain",
    "deberta-v2, as v3",
    "modernbert, plain",
    "t5, plain",
    "bart, plain",
    "m2m_100, plain",
)
COUNTS, STARTS, TABLES = [37, 1], [0, 3], [[1, 2, 3], [4]]


class OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where an operation takes or gives tensors of several devices. Numbers may come from the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor) and one.dim()]
        devices = {tensor.device.type for tensor in found}
        assert func in MOVES or len(devices) < 2, f"{func} mixes {', '.join(sorted(devices))}"
        return result


def test_what_mixes_devices_is_seen() -> None:
    with OneDevice(), pytest.raises(AssertionError, match="mixes cpu, meta"):
        torch.zeros(3, device=META).copy_(torch.zeros(3))


def encode(config: EncoderConfig) -> Tensor:
    with META:
        model = Encoder(config)
    materialize(model, META, torch.bfloat16)
    with OneDevice():
        hidden: Tensor = model(ids(), COUNTS)
    return hidden


def decode(config: DecoderConfig) -> Tensor:
    with META:
        model = Decoder(config)
    materialize(model, META, torch.bfloat16)
    with OneDevice():
        mixing = Mixing.of([("some", 37), (None, 1)], META)
        hidden = model(ids(), ids(), paging(), cache(config), mixing)
        return model.logits(hidden, mixing)


def answer(config: Any) -> Tensor:
    with META:
        model = Seq2Seq(config)
    materialize(model, META, torch.bfloat16)
    with OneDevice():
        kept, blocks = cache(config.decoder), [[5, 6, 7], [8]]
        model.encode(ids(), COUNTS, blocks, kept)
        sources = Sources(blocks, COUNTS, COUNTS, 16, META)
        return model.logits(model(ids(), ids(), paging(), kept, sources))


def ids() -> Tensor:
    return torch.zeros(sum(COUNTS), dtype=torch.long, device=META)


def paging() -> Paging:
    return Paging(TABLES, STARTS, COUNTS, 16, META)


def cache(config: DecoderConfig) -> KVCache:
    return KVCache(config, num_blocks=9, block_size=16, device=META, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
@torch.inference_mode()
def test_a_model_stays_on_its_device(name: str) -> None:
    _, config = read(json.loads(CONFIGS[name]().to_json_string()))
    run: Callable[[Any], Tensor] = answer
    if isinstance(config, DecoderConfig):
        run = decode
    elif isinstance(config, EncoderConfig):
        run = encode
    assert run(config).device == META

"""The two models that are served by default compute what `transformers` computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from models.errors import SourceUnreachable
from models.invariance import keeps_its_bits
from models.loading import LoadedDecoder, LoadedEncoder, load
from models.weights.sources import MINILM, SMOLLM2, Default, resolve
from server.settings import Settings
from tests.models.paged import CPU, Session

pytestmark = pytest.mark.defaults

PROMPT = [504, 3575, 282, 4649, 314]  # "The capital of France is"


def path_of(default: Default) -> Path:
    try:
        return resolve(default.name, cache=Settings().cache)
    except SourceUnreachable as error:
        pytest.skip(str(error))


def load_decoder(dtype: torch.dtype) -> LoadedDecoder:
    loaded = load(path_of(SMOLLM2), device=CPU, dtype=dtype)
    assert isinstance(loaded, LoadedDecoder)
    return loaded


@pytest.fixture(scope="module")
def oracle() -> Any:
    """As transformers reads the GGUF file, step by step: its one-line loader wants yet another package."""
    file = path_of(SMOLLM2)
    config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    oracle = transformers.AutoModelForCausalLM.from_config(config).eval()
    tensors = load_gguf_checkpoint(file, return_tensors=True, model_to_load=oracle)["tensors"]
    missing, unexpected = oracle.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied: the very tensor of the embeddings
    return oracle


@torch.inference_mode()
def test_smollm2_agrees_with_transformers(oracle: Any) -> None:
    loaded = load_decoder(torch.float32)
    ours = Session(loaded.decoder, loaded.config).greedy("greedy", PROMPT, 20)
    logits = oracle(torch.tensor([PROMPT + ours])).logits[0]
    assert ours == logits[len(PROMPT) - 1 : -1].argmax(-1).tolist()
    (whole,) = Session(loaded.decoder, loaded.config).step([("whole", PROMPT + ours)])
    # Logits reach 30 here, and the weights are summed in another order over thirty layers.
    torch.testing.assert_close(whole, logits, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_smollm2_is_the_same_in_chunks_and_alone(dtype: torch.dtype) -> None:
    if not keeps_its_bits(dtype):
        pytest.skip(f"the kernels of this machine do not keep the bits of {dtype}")
    loaded = load_decoder(dtype)
    text = torch.randint(100, 49000, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    (whole,) = Session(loaded.decoder, loaded.config, dtype=dtype).step([("text", text)])
    session = Session(loaded.decoder, loaded.config, dtype=dtype)
    session.step([("other", text[50:120]), ("text", text[:290])])
    one_by_one = [session.step([("text", [token]), ("other", [token])])[0] for token in text[290:]]
    assert torch.equal(torch.cat(one_by_one), whole[290:])


@torch.inference_mode()
def test_minilm_agrees_with_transformers() -> None:
    folder = path_of(MINILM)
    oracle = transformers.BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedEncoder)
    lengths = [5, 200, 1, 64]
    texts = [torch.randint(1000, 30000, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    hidden = loaded.encoder(torch.cat(texts), lengths)
    expected = torch.cat([oracle(text[None]).last_hidden_state[0] for text in texts])
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)
    assert loaded.normalize


@torch.inference_mode()
def test_the_adapter_leaves_minilm_s_embeddings_as_they_are() -> None:
    folder = path_of(MINILM)
    adapter = Path(__file__).parents[2] / "models" / "defaults" / "minilm_mlm"
    plain, adapted = (load(folder, device=CPU, dtype=torch.bfloat16, adapter=one) for one in (None, adapter))
    assert isinstance(plain, LoadedEncoder)
    assert isinstance(adapted, LoadedEncoder)
    assert plain.masked_lm is None
    assert adapted.masked_lm is not None
    tokens = torch.arange(1000, 1040)
    assert torch.equal(plain.encoder(tokens, [40]), adapted.encoder(tokens, [40]))
    assert adapted.masked_lm.encoder.embeddings is adapted.encoder.embeddings
    assert plain.fingerprint != adapted.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_minilm_says_the_same_alone_and_in_every_batch(dtype: torch.dtype) -> None:
    if not keeps_its_bits(dtype):
        pytest.skip(f"the kernels of this machine do not keep the bits of {dtype}")
    loaded = load(path_of(MINILM), device=CPU, dtype=dtype)
    assert isinstance(loaded, LoadedEncoder)
    lengths = [1, 2, 3, 5, 8, 13, 33, 64, 65, 128, 129, 300]
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(1000, 30000, (length,), generator=draw) for length in lengths]
    alone = [loaded.encoder(text, [len(text)]) for text in texts]
    for first, last in ((0, 12), (3, 9), (10, 12)):
        some = loaded.encoder(torch.cat(texts[first:last]), lengths[first:last])
        assert torch.equal(some, torch.cat(alone[first:last]))

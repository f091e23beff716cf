"""Every encoder family computes what `transformers` computes, from the files that it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import WeightsMismatch
from models.invariance import keeps_its_bits
from models.loading import LoadedEncoder, load
from tests.models.encoder_configs import CONFIGS
from tests.models.paged import CPU
from tests.models.parity import report

LENGTHS = [1, 45, 128, 7, 32, 33]
TEXTS = [torch.randint(3, 83, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
TOKENS = torch.cat(TEXTS)
ROWS = torch.tensor([0, 1, 45, 46, 173, sum(LENGTHS) - 1])
# One of each kind of attention: over all, with score biases, disentangled, in windows and rotated.
KINDS = ("bert, plain", "mpnet, plain", "deberta-v2, as v3", "modernbert, plain")
PAIRED = [name for name in CONFIGS if getattr(CONFIGS[name](), "type_vocab_size", 0) > 1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Quickest for small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class Pair:
    """A model of random weights as the oracle has it, and as we load it from its files."""

    oracle: Any
    loaded: LoadedEncoder
    name: str

    def check(self, check: str, actual: Tensor, expected: Tensor) -> None:
        family, _, config = self.name.partition(", ")
        report(family, config, check, float((actual - expected).abs().max()))
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def random_oracle(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    oracle = kind.from_config(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():  # biases and norms too, which start as 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return oracle


def load_encoder(folder: Path, dtype: torch.dtype = torch.float32, *, packed: bool = True) -> LoadedEncoder:
    loaded = load(folder, device=CPU, dtype=dtype, packed=packed)
    assert isinstance(loaded, LoadedEncoder)
    return loaded


def make_pair(kind: Any, name: str, folder: Path) -> Pair:
    oracle = random_oracle(kind, CONFIGS[name]())
    oracle.save_pretrained(folder)
    return Pair(oracle, load_encoder(folder), name)


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_hidden_states_of_ragged_texts_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    pair = make_pair(transformers.AutoModel, name, tmp_path)
    hidden = pair.loaded.encoder(TOKENS, LENGTHS)
    pair.check("hidden", hidden, torch.cat([pair.oracle(text[None]).last_hidden_state[0] for text in TEXTS]))
    assert pair.loaded.masked_lm is None
    assert pair.loaded.head is None


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_masked_lm_logits_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    pair = make_pair(transformers.AutoModelForMaskedLM, name, tmp_path)
    assert pair.loaded.masked_lm is not None
    logits = pair.loaded.masked_lm(TOKENS, LENGTHS, ROWS)
    expected = torch.cat([pair.oracle(text[None]).logits[0] for text in TEXTS])[ROWS]
    pair.check("masked LM", logits, expected)
    assert pair.loaded.parameters == sum(parameter.numel() for parameter in pair.oracle.parameters())


@pytest.mark.parametrize("name", PAIRED)
@torch.inference_mode()
def test_second_segments_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    pair = make_pair(transformers.AutoModel, name, tmp_path)
    segments = [(torch.arange(len(text)) > len(text) // 2).long() for text in TEXTS]
    hidden = pair.loaded.encoder(TOKENS, LENGTHS, torch.cat(segments))
    expected = [
        pair.oracle(text[None], token_type_ids=second[None]).last_hidden_state[0]
        for text, second in zip(TEXTS, segments, strict=True)
    ]
    pair.check("segments", hidden, torch.cat(expected))


def test_segments_of_a_model_that_has_none_are_refused(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, CONFIGS["mpnet, plain"]()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not tell segments apart"):
        load_encoder(tmp_path).encoder(TEXTS[1], [45], torch.zeros(45, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_a_text_has_the_same_bits_alone_and_among_others(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    if not keeps_its_bits(dtype):
        pytest.skip(f"the kernels of this machine do not keep the bits of {dtype}")
    random_oracle(transformers.AutoModel, CONFIGS[name]()).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, dtype).encoder
    alone = [encoder(text, [len(text)]) for text in TEXTS]
    for first, last in ((0, len(TEXTS)), (1, 3), (3, 6)):
        lengths = LENGTHS[first:last]
        together = encoder(torch.cat(TEXTS[first:last]), lengths).split_with_sizes(lengths)
        assert all(map(torch.equal, alone[first:last], together))


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_every_weight_of_an_unpacked_encoder(name: str, tmp_path: Path) -> None:
    random_oracle(transformers.AutoModelForMaskedLM, CONFIGS[name]()).save_pretrained(tmp_path)
    masked_lm = load_encoder(tmp_path, packed=False).masked_lm
    assert masked_lm is not None
    masked_lm.requires_grad_(True)
    masked_lm(TOKENS, LENGTHS, torch.arange(sum(LENGTHS))).logsumexp(-1).sum().backward()
    gradients = {name: parameter.grad for name, parameter in masked_lm.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
    assert [
        name for name, gradient in gradients.items() if gradient is not None and not gradient.isfinite().all()
    ] == []


@torch.inference_mode()
def test_the_old_spelling_of_layer_norm_loads(tmp_path: Path) -> None:
    oracle = random_oracle(transformers.AutoModelForMaskedLM, CONFIGS["bert, plain"]())
    oracle.save_pretrained(tmp_path)
    rename(tmp_path, {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"})
    hidden = load_encoder(tmp_path).encoder(TEXTS[1], [45])
    torch.testing.assert_close(hidden, oracle.bert(TEXTS[1][None]).last_hidden_state[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_tensors_of_nomic_bert_load_as_transformers_calls_them_within(tmp_path: Path) -> None:
    pair = make_pair(transformers.AutoModel, "nomic_bert, plain", tmp_path)
    tensors = {name: tensor.clone() for name, tensor in pair.oracle.state_dict().items()}
    assert not tensors.keys() & load_file(tmp_path / "model.safetensors").keys() - EMBEDDINGS
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    hidden = load_encoder(tmp_path).encoder(TEXTS[1], [45])
    assert torch.equal(hidden, pair.loaded.encoder(TEXTS[1], [45]))


@torch.inference_mode()
def test_a_configuration_of_nomic_bert_from_before_transformers_had_it_is_read(tmp_path: Path) -> None:
    pair = make_pair(transformers.AutoModel, "nomic_bert, plain", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(OLD_NOMIC))
    hidden = load_encoder(tmp_path).encoder(TEXTS[1], [45])
    assert torch.equal(hidden, pair.loaded.encoder(TEXTS[1], [45]))


EMBEDDINGS = {"embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"}
OLD_NOMIC = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "activation_function": "swiglu",
    "vocab_size": 83,
    "n_embd": 32,
    "n_head": 4,
    "n_inner": 48,
    "n_layer": 3,
    "n_positions": 140,
    "layer_norm_epsilon": 1e-12,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_scaling_factor": None,
    "prenorm": False,
    "type_vocab_size": 2,
    "use_flash_attn": True,
}


def rename(folder: Path, spellings: dict[str, str]) -> None:
    """Every tensor of the checkpoint in `folder` whose name has one of `spellings`."""
    tensors = load_file(folder / "model.safetensors")
    for new, old in spellings.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_decoder_matrix_that_differs_from_the_words_is_refused(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModelForMaskedLM, CONFIGS["bert, plain"]()).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    for change, agrees in ((0.0, True), (1.0, False)):
        tensors["cls.predictions.decoder.weight"] = words + change
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        if agrees:
            load_encoder(tmp_path)
        else:
            with pytest.raises(WeightsMismatch, match=r"decoder\.weight differs from"):
                load_encoder(tmp_path)


def test_lengths_that_do_not_cover_the_tokens_are_refused(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, CONFIGS["bert, plain"]()).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path).encoder
    with pytest.raises(ValueError, match="lengths sum to 3, but there are 4 tokens"):
        encoder(torch.arange(4), [3])
    with pytest.raises(ValueError, match="at least one token"):
        encoder(torch.arange(4), [4, 0])
    with pytest.raises(ValueError, match="a text has 141 tokens; the model takes 140"):
        encoder(torch.ones(141, dtype=torch.long), [141])

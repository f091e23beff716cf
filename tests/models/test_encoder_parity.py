"""Every encoder family computes what `transformers` computes, from the files that it saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.heads import Pooling, normalize, pool
from models.loading import LoadedEncoder, load
from tests.models.paged import CPU

SIZES = {
    "vocab_size": 83,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**SIZES),
    "bert, another activation": lambda: transformers.BertConfig(**SIZES, hidden_act="relu"),
    "roberta": lambda: transformers.RobertaConfig(**SIZES, type_vocab_size=1),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=83, dim=32, hidden_dim=48, n_layers=3, n_heads=4, max_position_embeddings=130
    ),
}
LENGTHS = [1, 45, 128, 7, 32, 33]
TEXTS = [torch.randint(3, 83, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


def random_oracle(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    oracle = kind.from_config(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():  # biases and norms too, which start as 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return oracle


def load_encoder(folder: Path) -> LoadedEncoder:
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedEncoder)
    return loaded


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Any:
    return CONFIGS[request.param]()


@torch.inference_mode()
def test_hidden_states_of_ragged_texts_are_those_of_the_reference(config: Any, tmp_path: Path) -> None:
    oracle = random_oracle(transformers.AutoModel, config)
    oracle.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    hidden = loaded.encoder(torch.cat(TEXTS), LENGTHS)
    expected = torch.cat([oracle(text[None]).last_hidden_state[0] for text in TEXTS])
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)
    assert loaded.masked_lm is None


@torch.inference_mode()
def test_masked_lm_logits_are_those_of_the_reference(config: Any, tmp_path: Path) -> None:
    oracle = random_oracle(transformers.AutoModelForMaskedLM, config)
    oracle.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.masked_lm is not None
    rows = torch.tensor([0, 1, 45, 46, 173, sum(LENGTHS) - 1])
    logits = loaded.masked_lm(torch.cat(TEXTS), LENGTHS, rows)
    expected = torch.cat([oracle(text[None]).logits[0] for text in TEXTS])[rows]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert loaded.parameters == sum(parameter.numel() for parameter in oracle.parameters())


@torch.inference_mode()
def test_the_old_spelling_of_layer_norm_loads(tmp_path: Path) -> None:
    oracle = random_oracle(transformers.AutoModelForMaskedLM, transformers.BertConfig(**SIZES))
    oracle.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(renamed, file, metadata={"format": "pt"})
    hidden = load_encoder(tmp_path).encoder(TEXTS[1], [45])
    torch.testing.assert_close(hidden, oracle.bert(TEXTS[1][None]).last_hidden_state[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_text_has_the_same_vector_alone_and_among_others(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, transformers.BertConfig(**SIZES)).save_pretrained(tmp_path)
    loaded = load(tmp_path, device=CPU, dtype=torch.bfloat16)
    assert isinstance(loaded, LoadedEncoder)
    together = loaded.encoder(torch.cat(TEXTS), LENGTHS).split_with_sizes(LENGTHS)
    for text, hidden in zip(TEXTS, together, strict=True):
        assert torch.equal(loaded.encoder(text, [len(text)]), hidden)


def test_gradients_reach_every_weight_of_an_unpacked_encoder(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModelForMaskedLM, transformers.BertConfig(**SIZES)).save_pretrained(
        tmp_path
    )
    loaded = load(tmp_path, device=CPU, dtype=torch.float32, packed=False)
    assert isinstance(loaded, LoadedEncoder)
    assert loaded.masked_lm is not None
    loaded.masked_lm.requires_grad_(True)
    loaded.masked_lm(torch.cat(TEXTS), LENGTHS, torch.arange(sum(LENGTHS))).logsumexp(-1).sum().backward()
    untouched = [
        name for name, p in loaded.masked_lm.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert untouched == []


def test_lengths_that_do_not_cover_the_tokens_are_refused(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, transformers.BertConfig(**SIZES)).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path).encoder
    with pytest.raises(ValueError, match="lengths sum to 3, but there are 4 tokens"):
        encoder(torch.arange(4), [3])
    with pytest.raises(ValueError, match="at least one token"):
        encoder(torch.arange(4), [4, 0])


def test_pooling_takes_each_text_for_itself() -> None:
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
    assert pool(hidden, [2, 1], Pooling.MEAN).tolist() == [[2, 3], [9, 9]]
    assert pool(hidden, [2, 1], Pooling.CLS).tolist() == [[1, 2], [9, 9]]


def test_normalized_vectors_have_unit_length_and_zero_stays_zero() -> None:
    assert normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        pytest.approx([0.6, 0.8]),
        [0.0, 0.0],
    ]

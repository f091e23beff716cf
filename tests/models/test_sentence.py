"""One vector for a text, as the files of sentence-transformers say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from models.config import Pooling
from models.errors import BrokenCheckpoint, PickleRefused, UnsupportedModel, WeightsMismatch
from models.loading import LoadedEncoder, load
from models.pooling import normalize, pool
from models.sentence_files import load_sentence
from tests.models.paged import CPU

SIZE = 6
HIDDEN = torch.randn(9, SIZE, generator=torch.Generator().manual_seed(0))
LENGTHS = [4, 1, 3, 1]
TEXTS = HIDDEN.split_with_sizes(LENGTHS)
MEAN = {"pooling_mode_mean_tokens": True}
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"


def write_modules(folder: Path, *kinds: str, pooling: Mapping[str, Any] = MEAN) -> None:
    """`modules.json` as sentence-transformers writes it, and the configuration of the pooling."""
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    write_json(folder / "1_Pooling" / "config.json", pooling)


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def write_dense(folder: Path, weight: Tensor, bias: Tensor | None, **options: Any) -> None:
    raw = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        **options,
    }
    write_json(folder / "config.json", raw)
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
    }
    transformers.BertModel(transformers.BertConfig(**sizes, num_hidden_layers=1)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.CLS, [text[0] for text in TEXTS]),
        (Pooling.MAX, [text.max(dim=0).values for text in TEXTS]),
        (Pooling.MEAN, [text.sum(dim=0) / len(text) for text in TEXTS]),
        (Pooling.MEAN_SQRT_LEN, [text.sum(dim=0) / torch.tensor(len(text)).sqrt() for text in TEXTS]),
        (
            Pooling.WEIGHTED_MEAN,
            [
                (text * torch.arange(1, len(text) + 1)[:, None]).sum(0) / sum(range(len(text) + 1))
                for text in TEXTS
            ],
        ),
        (Pooling.LAST, [text[-1] for text in TEXTS]),
    ],
)
def test_pooling_takes_each_text_for_itself(pooling: Pooling, expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close(pool(HIDDEN, LENGTHS, pooling), torch.stack(list(expected)))


def test_normalized_vectors_have_unit_length_and_zero_stays_zero() -> None:
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), expected)


def test_a_folder_without_modules_has_the_mean_as_it_is(tmp_path: Path) -> None:
    sentence = load_sentence(tmp_path, SIZE, CPU)
    torch.testing.assert_close(sentence.module(HIDDEN, LENGTHS), pool(HIDDEN, LENGTHS, Pooling.MEAN))
    assert (sentence.module.size, sentence.module.pooling, sentence.normalize) == (SIZE, "mean", False)


@pytest.mark.parametrize(
    ("raw", "poolings"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ["cls"]),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ["cls", "mean"]),
        (
            {"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_max_tokens": True},
            ["max", "mean_sqrt_len_tokens"],
        ),
        (
            {"pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True},
            ["weightedmean", "lasttoken"],
        ),
        ({"pooling_mode": "lasttoken", "embedding_dimension": SIZE, "include_prompt": True}, ["lasttoken"]),
        ({"pooling_mode": ["mean", "cls"], "embedding_dimension": SIZE}, ["mean", "cls"]),
    ],
)
def test_kinds_of_pooling_lie_side_by_side(
    tmp_path: Path, raw: Mapping[str, Any], poolings: list[str]
) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", pooling=raw)
    sentence = load_sentence(tmp_path, SIZE, CPU).module
    expected = torch.cat([pool(HIDDEN, LENGTHS, Pooling(name)) for name in poolings], dim=-1)
    assert torch.equal(sentence(HIDDEN, LENGTHS), expected)
    assert (sentence.size, sentence.pooling) == (SIZE * len(poolings), "+".join(poolings))


@torch.inference_mode()
def test_dense_layers_follow_the_pooling(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Dense", "Dense", "Normalize")
    first, bias, second = torch.randn(4, SIZE), torch.randn(4), torch.randn(3, 4)
    write_dense(tmp_path / "2_Dense", first, bias, activation_function=TANH)
    write_dense(tmp_path / "3_Dense", second, None, activation_function=IDENTITY)
    sentence = load_sentence(tmp_path, SIZE, CPU)
    expected = torch.tanh(pool(HIDDEN, LENGTHS, Pooling.MEAN) @ first.T + bias) @ second.T
    torch.testing.assert_close(sentence.module(HIDDEN, LENGTHS), expected)
    assert (sentence.module.size, sentence.normalize) == (3, True)


def test_what_is_made_of_token_vectors_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    seen = {load_sentence(tmp_path, SIZE, CPU).fingerprints}
    for kinds, pooling in (
        (("Transformer", "Pooling"), MEAN),
        (("Transformer", "Pooling"), {"pooling_mode_cls_token": True}),
        (("Transformer", "Pooling", "Normalize"), {"pooling_mode_cls_token": True}),
    ):
        write_modules(tmp_path, *kinds, pooling=pooling)
        seen.add(load_sentence(tmp_path, SIZE, CPU).fingerprints)
    assert len(seen) == 4


def test_other_dense_weights_are_another_model(bert: Path) -> None:
    write_modules(bert, "Transformer", "Pooling", "Dense")
    fingerprints = set()
    for weight in (torch.zeros(2, 8), torch.ones(2, 8)):
        write_dense(bert / "2_Dense", weight, None, activation_function=IDENTITY)
        loaded = load(bert, device=CPU, dtype=torch.bfloat16)
        assert isinstance(loaded, LoadedEncoder)
        vectors = loaded.sentence(loaded.encoder(torch.arange(5), [5]), [5])
        assert (vectors.shape, vectors.dtype) == ((1, 2), torch.float32)
        fingerprints.add(loaded.fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (["Transformer", "Pooling"], {}, "pooling by nothing"),
        (["Transformer", "Pooling"], {"pooling_mode_colbert": True}, "pooling by pooling_mode_colbert"),
        (["Transformer", "Pooling"], {"pooling_mode": "best"}, "`pooling_mode` is 'best'"),
        (["Transformer", "Pooling"], {**MEAN, "include_prompt": False}, "`include_prompt` is False"),
        (
            ["Transformer", "Pooling"],
            {**MEAN, "word_embedding_dimension": 5},
            "`word_embedding_dimension` is 5",
        ),
        (["Transformer", "Pooling", "LayerNorm"], MEAN, "the module LayerNorm"),
        (
            ["Transformer", "Pooling", "Normalize", "Dense"],
            MEAN,
            "Normalize, Dense; supported, in this order",
        ),
        (["Pooling"], MEAN, "has Pooling; supported, in this order"),
    ],
)
def test_what_is_not_implemented_is_refused(
    tmp_path: Path, kinds: list[str], pooling: Mapping[str, Any], message: str
) -> None:
    write_modules(tmp_path, *kinds, pooling=pooling)
    with pytest.raises(UnsupportedModel, match=message):
        load_sentence(tmp_path, SIZE, CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "`activation_function` is .*Mish"),
        ({"in_features": 5}, "`in_features` is 5"),
        ({"use_residual": True}, "`use_residual` is True"),
        ({"module_input_name": "token_embeddings"}, "`module_input_name` is 'token_embeddings'"),
    ],
)
def test_dense_layers_that_are_not_implemented_are_refused(
    tmp_path: Path, options: Mapping[str, Any], message: str
) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Dense")
    write_dense(tmp_path / "2_Dense", torch.randn(3, SIZE), None, **options)
    with pytest.raises(UnsupportedModel, match=message):
        load_sentence(tmp_path, SIZE, CPU)


def test_dense_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Dense")
    write_dense(tmp_path / "2_Dense", torch.randn(3, SIZE), torch.randn(3), out_features=4)
    with pytest.raises(WeightsMismatch, match=r"linear\.weight is \[3, 6\], not \[4, 6\]"):
        load_sentence(tmp_path, SIZE, CPU)
    write_dense(tmp_path / "2_Dense", torch.randn(3, SIZE), None)
    surplus = {"linear.weight": torch.randn(3, SIZE), "linear.bias": torch.randn(3)}
    save_file(surplus, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"left-over tensors: linear\.bias"):
        load_sentence(tmp_path, SIZE, CPU)


def test_dense_weights_as_pickle_are_refused(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Dense")
    write_dense(tmp_path / "2_Dense", torch.randn(3, SIZE), None)
    (tmp_path / "2_Dense" / "model.safetensors").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(PickleRefused, match=r"pytorch_model\.bin"):
        load_sentence(tmp_path, SIZE, CPU)


def test_an_encoder_in_a_folder_of_its_own_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [{"type": "x.Transformer", "path": "0_Transformer"}])
    with pytest.raises(UnsupportedModel, match="has the encoder in 0_Transformer"):
        load_sentence(tmp_path, SIZE, CPU)


def test_a_pooling_folder_outside_the_model_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [{"type": "x.Pooling", "path": "../elsewhere"}])
    with pytest.raises(BrokenCheckpoint, match="leads out of the model's folder"):
        load_sentence(tmp_path, SIZE, CPU)


def test_files_that_are_no_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(BrokenCheckpoint, match=r"modules\.json is broken: not readable as JSON"):
        load_sentence(tmp_path, SIZE, CPU)
    write_json(tmp_path / "modules.json", {})
    with pytest.raises(BrokenCheckpoint, match="a JSON array was expected"):
        load_sentence(tmp_path, SIZE, CPU)

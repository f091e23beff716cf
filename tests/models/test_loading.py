"""Loading proves that model and checkpoint cover each other, and refuses by name what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.adapter import CONFIG, WEIGHTS
from models.errors import ChecksumMismatch, UnsupportedModel, WeightsMismatch
from models.loading import load
from tests.models.paged import CPU

LLAMA = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
BERT = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}

GPTJ = {"vocab_size": 40, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)
    ).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    return tmp_path


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def load_plain(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load(folder, device=CPU, dtype=dtype)


def test_missing_and_left_over_tensors_are_all_listed(llama: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.norm.weight"], tensors["model.layers.0.self_attn.k_proj.weight"]
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(1)
        tensors["surplus"] = torch.zeros(1)

    change_tensors(llama, damage)
    with pytest.raises(WeightsMismatch) as caught:
        load_plain(llama)
    assert caught.value.missing == ("model.layers.0.self_attn.k_proj.weight", "model.norm.weight")
    assert caught.value.left_over == ("model.layers.1.mlp.up_proj.weight", "surplus")


@pytest.mark.parametrize("shape", [(24, 17), (23, 16), (25, 16)])
def test_a_tensor_of_another_shape_is_named(llama: Path, shape: tuple[int, int]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change_tensors(llama, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(WeightsMismatch, match=r"blocks\.0\.mlp\.gate_up\.weight"):
        load_plain(llama)


def test_a_tensor_without_rows_is_named(llama: Path) -> None:
    change_tensors(llama, lambda tensors: tensors.update({"model.norm.weight": torch.tensor(1.0)}))
    with pytest.raises(WeightsMismatch, match=r"norm\.weight is \[16\]; \[\] does not fit"):
        load_plain(llama)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_numbers_that_are_no_weights_are_refused_by_name(llama: Path, dtype: torch.dtype) -> None:
    """What is left of a quantised model whose configuration does not say so."""
    name = "model.layers.0.mlp.up_proj.weight"
    change_tensors(llama, lambda tensors: tensors.update({name: torch.ones(24, 16, dtype=dtype)}))
    with pytest.raises(WeightsMismatch, match=rf"{name} holds {dtype}"):
        load_plain(llama)


@pytest.mark.parametrize(
    ("kind", "config", "changes", "message"),
    [
        (
            transformers.GPTNeoXForCausalLM,
            transformers.GPTNeoXConfig(**BERT),
            {"hidden_size": 32},
            r"query_key_value\.weight: \[48, 16\] does not hold 2 query and 2 key and value heads of 16",
        ),
        (
            transformers.GPTJForCausalLM,
            transformers.GPTJConfig(**GPTJ),
            {"n_embd": 12},
            r"attn\.q_proj\.weight: \[16, 16\] is no number of heads of 6",
        ),
    ],
)
def test_heads_of_another_size_than_configured_are_named(
    tmp_path: Path, kind: Any, config: Any, changes: dict[str, object], message: str
) -> None:
    kind(config).save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(WeightsMismatch, match=message):
        load_plain(tmp_path)


@pytest.mark.parametrize("names", [5, "BertForMaskedLM", [None]])
def test_architectures_that_are_no_names_are_refused(bert: Path, names: object) -> None:
    change_config(bert, architectures=names)
    with pytest.raises(UnsupportedModel, match=r"`architectures` is .*a list of names was expected"):
        load_plain(bert)


def test_a_copy_of_the_embeddings_as_head_is_accepted_and_another_head_is_not(llama: Path) -> None:
    words = load_file(llama / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(llama, lambda tensors: tensors.update({"lm_head.weight": words.clone()}))
    load_plain(llama)
    change_tensors(llama, lambda tensors: tensors.update({"lm_head.weight": words + 1}))
    with pytest.raises(WeightsMismatch, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        load_plain(llama)


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 2.0,
    "low_freq_factor": 4.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "`model_type` is 'mamba', which is not supported"),
        ({"model_type": "llama4"}, "the nearest that is: llama"),
        ({"mystery_factor": 2.0}, "has `mystery_factor` 2.0: not supported for llama"),
        ({"model_type": None}, "`model_type` is None"),
        ({"hidden_act": "mish"}, "`hidden_act` is 'mish'"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, "`rope_type` is 'longrope'"),
        ({"rope_parameters": {"factor": 4.0}}, "`rope_scaling` has `factor`"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, "`factor`"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "`factor`"),
        ({"rope_parameters": {"partial_rotary_factor": -0.5}}, "`partial_rotary_factor`, has -0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 2.0}}, "`partial_rotary_factor` is 2.0"),
        ({"rope_parameters": LLAMA3}, "`low_freq_factor` 4.0 is not below `high_freq_factor` 2.0"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1}}, "`rope_theta` is 1"),
        ({"rope_parameters": DYNAMIC, "head_dim": 2}, "the first pair of a head (`head_dim`)"),
        ({"quantization_config": {"quant_method": "gptq"}}, "`quantization_config`"),
        ({"num_hidden_layers": "12"}, "`num_hidden_layers`, has '12'"),
        ({"vocab_size": None}, "`vocab_size`, has None"),
        ({"rms_norm_eps": -1.0}, "`rms_norm_eps`, has -1.0"),
        ({"attention_bias": "yes"}, "`attention_bias`, has 'yes'"),
        ({"head_dim": None, "num_attention_heads": 3}, "`hidden_size` 16 is not a multiple"),
        ({"head_dim": 7}, "is 7: these are turned in pairs"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3 query heads cannot share 2 key heads"),
    ],
)
def test_a_decoder_config_that_is_not_implemented_is_refused_by_name(
    llama: Path, changes: dict[str, object], message: str
) -> None:
    change_config(llama, **changes)
    with pytest.raises(UnsupportedModel) as caught:
        load_plain(llama)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "`position_embedding_type` is 'relative_key'"),
        ({"is_decoder": True}, "`is_decoder` is True"),
        ({"tie_word_embeddings": False}, "`tie_word_embeddings` is False"),
        ({"hidden_act": "mish"}, "`hidden_act` is 'mish'"),
        ({"num_attention_heads": 5}, "`hidden_size` 16 is not a multiple of `num_attention_heads` 5"),
    ],
)
def test_an_encoder_config_that_is_not_implemented_is_refused_by_name(
    bert: Path, changes: dict[str, object], message: str
) -> None:
    change_config(bert, **changes)
    with pytest.raises(UnsupportedModel) as caught:
        load_plain(bert)
    assert message in str(caught.value)


def test_local_layers_without_a_window_are_refused(llama: Path) -> None:
    change_config(llama, model_type="qwen2", layer_types=["sliding_attention"])
    with pytest.raises(UnsupportedModel, match="`layer_types` has sliding_attention, but there is no"):
        load_plain(llama)


def test_a_window_per_layer_is_refused(llama: Path) -> None:
    change_config(llama, layer_types=["sliding_attention"])
    with pytest.raises(UnsupportedModel, match="`layer_types`"):
        load_plain(llama)


def test_fingerprints_tell_weights_and_precisions_apart(llama: Path) -> None:
    first = load_plain(llama).fingerprint
    assert load_plain(llama).fingerprint == first
    assert load_plain(llama, torch.bfloat16).fingerprint != first
    change_tensors(llama, lambda tensors: tensors["model.norm.weight"].add_(1))
    assert load_plain(llama).fingerprint != first


def test_a_half_finished_masked_lm_head_is_a_mismatch(bert: Path) -> None:
    change_tensors(bert, lambda tensors: tensors.update({"cls.predictions.bias": torch.zeros(40)}))
    with pytest.raises(WeightsMismatch) as caught:
        load_plain(bert)
    assert "cls.predictions.transform.dense.weight" in caught.value.missing


def test_an_adapter_of_other_weights_is_refused(bert: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / CONFIG).write_text(json.dumps({"base_sha256": "0" * 64, "rank": 1, "alpha": 1}))
    save_file({"x": torch.zeros(1)}, adapter / WEIGHTS)
    with pytest.raises(ChecksumMismatch):
        load(bert, device=CPU, dtype=torch.float32, adapter=adapter)


def test_an_adapter_for_a_decoder_is_refused(llama: Path) -> None:
    with pytest.raises(UnsupportedModel, match="is no encoder"):
        load(llama, device=CPU, dtype=torch.float32, adapter=llama)

"""An adapter changes what PEFT has it change, in rows that run with it; in others not a bit."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import BrokenCheckpoint, PickleRefused, SourceNotFound, UnsupportedModel, WeightsMismatch
from models.layers.linear import Linear
from models.layers.lora import LowRank, Mixing
from models.loading import LoadedDecoder, LoadedEncoder, load
from models.lora import attach, detach
from models.lora_folder import read_lora
from tests.models import decoder_configs_a, decoder_configs_b, encoder_configs
from tests.models.paged import CPU, Session
from tests.models.parity import report
from tests.models.test_gguf_parity import CASES, llama_tensors, random_oracle, write_gguf

torch.set_num_threads(1)
DECODERS = decoder_configs_a.CONFIGS | decoder_configs_b.CONFIGS
FIRST = {name.partition(",")[0]: name for name in reversed(DECODERS)}  # one of each family
LAYOUTS = [*FIRST.values(), "falcon, grouped queries, two norms", "gpt_bigcode, a key head for each query"]
TEXTS = {
    name: torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist()
    for name, n in (("a", 45), ("b", 1), ("c", 70))
}
SHORT = {name: [token % 80 + 3 for token in text] for name, text in TEXTS.items()}  # of smaller vocabularies
LLAMA = "llama, grouped queries"


def oracle_of(config: Any, auto: Any = transformers.AutoModelForCausalLM) -> Any:
    torch.manual_seed(0)
    oracle = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return oracle


def adapt(oracle: Any, folder: Path, *, seed: int = 1, **options: Any) -> Any:
    """PEFT's model around a copy of `oracle`, with random changes that are saved in `folder`."""
    chosen: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "init_lora_weights": False,
    } | options
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it corrects `fan_in_fan_out`
        adapted = peft.get_peft_model(oracle, peft.LoraConfig(**chosen)).eval()
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return adapted


def load_decoder(oracle: Any, folder: Path, *, dtype: torch.dtype = torch.float32) -> LoadedDecoder:
    oracle.save_pretrained(folder)
    loaded = load(folder, device=CPU, dtype=dtype)
    assert isinstance(loaded, LoadedDecoder)
    return loaded


def logits(loaded: LoadedDecoder, loras: Mapping[str, str]) -> list[Tensor]:
    return Session(loaded.decoder, loaded.config, loras=loras).step(TEXTS.items())


@torch.inference_mode()
def largest_error(adapted: Any, ours: list[Tensor]) -> float:
    expected = [adapted(torch.tensor([text])).logits[0] for text in TEXTS.values()]
    return max(float((one - other).abs().max()) for one, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("name", LAYOUTS)
def test_logits_are_those_of_peft(name: str, tmp_path: Path) -> None:
    config = DECODERS[name]()
    oracle = oracle_of(config)
    loaded = load_decoder(oracle, tmp_path / "base")
    adapted = adapt(oracle, tmp_path / "lora")
    attach(loaded, read_lora(tmp_path / "lora"), "one")
    error = largest_error(adapted, logits(loaded, dict.fromkeys(TEXTS, "one")))
    report(config.model_type, name, "adapter", error)
    assert error < 1e-4


OPTIONS: dict[str, dict[str, Any]] = {
    "queries and values only": {"target_modules": ["q_proj", "v_proj"]},
    "keys and one half of the gate": {"target_modules": ["k_proj", "up_proj"]},
    "the head too": {"target_modules": ["o_proj", "lm_head"], "r": 3},
    "a regular expression": {"target_modules": r".*layers\.[02]\..*(gate|down)_proj"},
    "some layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 2]},
    "one layer of a pattern": {
        "target_modules": ["v_proj"],
        "layers_to_transform": 1,
        "layers_pattern": "layers",
    },
    "without some": {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
    "ranks and alphas of their own": {
        "target_modules": ["q_proj", "k_proj", "o_proj"],
        "rank_pattern": {"k_proj": 2, r"^model\.layers\.1\.self_attn\.q_proj": 7},
        "alpha_pattern": {"layers.0.self_attn.o_proj": 3},
    },
    "divided by the root of the rank": {"use_rslora": True, "lora_alpha": 3, "r": 5},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_means_what_it_means_to_peft(options: str, tmp_path: Path) -> None:
    oracle = oracle_of(DECODERS[LLAMA]())
    loaded = load_decoder(oracle, tmp_path / "base")
    adapted = adapt(oracle, tmp_path / "lora", **OPTIONS[options])
    attach(loaded, read_lora(tmp_path / "lora"), "one")
    error = largest_error(adapted, logits(loaded, dict.fromkeys(TEXTS, "one")))
    report("llama", options, "adapter", error)
    assert error < 1e-4


ENCODERS = {name.partition(",")[0]: name for name in reversed(list(encoder_configs.CONFIGS))}
DEBERTA = ENCODERS.pop("deberta-v2")


def load_encoder(oracle: Any, folder: Path) -> LoadedEncoder:
    oracle.save_pretrained(folder)
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedEncoder)
    return loaded


@pytest.mark.parametrize("name", ENCODERS.values())
@torch.inference_mode()
def test_encoders_are_changed_as_peft_changes_them(name: str, tmp_path: Path) -> None:
    config = encoder_configs.CONFIGS[name]()
    oracle = oracle_of(config, transformers.AutoModel)
    loaded = load_encoder(oracle, tmp_path / "base")
    narrow = ["embedding_hidden_mapping_in", "embeddings_project"]
    # The pooler as well, where there is one: it is nothing of ours.
    adapted = adapt(oracle, tmp_path / "lora", exclude_modules=narrow)
    attach(loaded, read_lora(tmp_path / "lora"), "one")
    lengths = [len(text) for text in SHORT.values()]
    tokens = torch.tensor([token for text in SHORT.values() for token in text])
    hidden = loaded.encoder(tokens, lengths, mixing=Mixing.of([("one", len(tokens))], CPU))
    expected = [adapted(torch.tensor([text])).last_hidden_state[0] for text in SHORT.values()]
    error = float((hidden - torch.cat(expected)).abs().max())
    report(config.model_type, name, "adapter", error)
    assert error < 1e-4


@torch.inference_mode()
def test_the_head_for_masks_is_changed_in_the_rows_of_masks_only(tmp_path: Path) -> None:
    oracle = oracle_of(encoder_configs.CONFIGS["bert, plain"](), transformers.AutoModelForMaskedLM)
    loaded = load_encoder(oracle, tmp_path / "base")
    adapted = adapt(oracle, tmp_path / "lora")
    attach(loaded, read_lora(tmp_path / "lora"), "one")
    assert loaded.masked_lm is not None
    assert loaded.masked_lm.head.transform is not None
    assert loaded.masked_lm.head.transform.changes.keys() == {"one"}
    lengths = [len(text) for text in SHORT.values()]
    tokens = torch.tensor([token for text in SHORT.values() for token in text])
    rows = torch.tensor([lengths[0] + 1, 3, 0])  # of the texts c, a and a
    plain = loaded.masked_lm(tokens, lengths, rows)
    mixed = loaded.masked_lm(tokens, lengths, rows, mixing=Mixing.of([("one", lengths[0])], CPU))
    expected = adapted(torch.tensor([SHORT["a"]])).logits[0, [3, 0]]
    torch.testing.assert_close(mixed[1:], expected, atol=1e-4, rtol=0)
    assert torch.equal(mixed[0], plain[0])


def test_an_adapter_of_nothing_but_the_pooler_changes_nothing_here(tmp_path: Path) -> None:
    oracle = oracle_of(encoder_configs.CONFIGS["bert, plain"](), transformers.AutoModel)
    loaded = load_encoder(oracle, tmp_path / "base")
    adapt(oracle, tmp_path / "lora", target_modules=["pooler.dense"])
    with pytest.raises(WeightsMismatch, match=r"left-over tensors: .*pooler\.dense"):
        attach(loaded, read_lora(tmp_path / "lora"), "one")


def test_a_module_that_is_there_under_two_names_is_refused(tmp_path: Path) -> None:
    oracle = oracle_of(DECODERS["gpt2, plain"]())
    loaded = load_decoder(oracle, tmp_path / "base")
    adapt(oracle, tmp_path / "lora", target_modules=["c_attn"])
    path = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(
        tensors | {name.replace("transformer.", ""): tensor.clone() for name, tensor in tensors.items()}, path
    )
    with pytest.raises(WeightsMismatch, match=r"left-over tensors: .*c_attn"):
        attach(loaded, read_lora(tmp_path / "lora"), "one")


def test_what_projects_distances_takes_no_change(tmp_path: Path) -> None:
    oracle = oracle_of(
        encoder_configs.CONFIGS["deberta-v2, its own masked-LM head"](), transformers.AutoModel
    )
    loaded = load_encoder(oracle, tmp_path / "base")
    adapt(oracle, tmp_path / "lora", target_modules=["query_proj", "dense"])
    with pytest.raises(UnsupportedModel, match=r"distances, too: .*query_proj"):
        attach(loaded, read_lora(tmp_path / "lora"), "one")


def test_a_model_from_a_gguf_file_takes_the_adapters_of_the_one_that_it_was_made_of(tmp_path: Path) -> None:
    build, architecture, metadata = CASES["llama"]
    oracle = random_oracle(build())
    write_gguf(tmp_path / "base.gguf", architecture, llama_tensors(oracle, paired=True), metadata)
    loaded = load(tmp_path / "base.gguf", device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    adapted = adapt(oracle, tmp_path / "lora")
    attach(loaded, read_lora(tmp_path / "lora"), "one")
    tokens = list(range(3, 40))
    session = Session(loaded.decoder, loaded.config, loras={"text": "one"})
    with torch.inference_mode():
        expected = adapted(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(session.step([("text", tokens)])[0], expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, `base`, and an adapter of it, `lora`."""
    folder = tmp_path_factory.mktemp("trained")
    oracle = oracle_of(DECODERS[LLAMA]())
    oracle.save_pretrained(folder / "base")
    adapt(oracle, folder / "lora")
    return folder


@pytest.fixture
def base(trained: Path) -> LoadedDecoder:
    loaded = load(trained / "base", device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    return loaded


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """The adapter, to be changed at will."""
    return shutil.copytree(trained / "lora", tmp_path / "lora")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_row_has_the_same_bits_in_any_company(tmp_path: Path, dtype: torch.dtype, packed: bool) -> None:
    oracle = oracle_of(DECODERS[LLAMA]())
    oracle.save_pretrained(tmp_path / "base")
    loaded = load(tmp_path / "base", device=CPU, dtype=dtype, packed=packed)
    assert isinstance(loaded, LoadedDecoder)
    plain = Session(loaded.decoder, loaded.config, dtype=dtype).step(TEXTS.items())
    for name, rank in (("x", 3), ("y", 8)):
        adapt(oracle, tmp_path / name, r=rank, seed=rank).unload()
        attach(loaded, read_lora(tmp_path / name), name)
    mixed = Session(loaded.decoder, loaded.config, dtype=dtype, loras={"a": "x", "c": "y"}).step(
        TEXTS.items()
    )
    for (text, tokens), together, without in zip(TEXTS.items(), mixed, plain, strict=True):
        alone = Session(loaded.decoder, loaded.config, dtype=dtype, loras={"a": "x", "c": "y"})
        (logits,) = alone.step([(text, tokens)])
        assert torch.equal(logits, together)
        assert torch.equal(logits, without) == (text == "b")


def test_chunks_make_no_difference(base: LoadedDecoder, folder: Path) -> None:
    attach(base, read_lora(folder), "one")
    whole = Session(base.decoder, base.config, loras={"c": "one"}).step([("c", TEXTS["c"])])[0]
    cut = Session(base.decoder, base.config, loras={"c": "one"})
    pieces = [cut.step([("c", TEXTS["c"][first : first + 9])])[0] for first in range(0, len(TEXTS["c"]), 9)]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("rank", [1, 2, 5, 16, 40])
@torch.inference_mode()
def test_a_change_of_any_rank_has_the_same_bits_for_any_number_of_rows(rank: int) -> None:
    torch.manual_seed(rank)
    change = LowRank(torch.randn(rank, 96), torch.randn(200, rank), beside=Linear(96, 200))
    rows = torch.randn(67, 96)
    whole = change(rows)
    for count in (1, 2, 3, 5, 8, 17, 33, 64):
        assert torch.equal(change(rows[:count]), whole[:count])


def test_a_detached_adapter_leaves_nothing_behind(base: LoadedDecoder, folder: Path) -> None:
    before = logits(base, {})
    attach(base, read_lora(folder), "one")
    with pytest.raises(ValueError, match="already"):
        attach(base, read_lora(folder), "one")
    detach(base, "one")
    assert all(map(torch.equal, logits(base, dict.fromkeys(TEXTS, "one")), before))


def rewritten(folder: Path, **changes: Any) -> Path:
    """With some keys of its configuration changed."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


REFUSED: dict[str, Any] = {
    "use_dora": True,
    "bias": "all",
    "modules_to_save": ["lm_head"],
    "layer_replication": [[0, 1]],
    "lora_bias": True,
    "megatron_config": {"x": 1},
    "target_parameters": ["w"],
    "trainable_token_indices": [3],
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "init_lora_weights": "pissa",
    "peft_type": "IA3",
    "r": 0,
    "lora_alpha": "much",
    "use_rslora": "yes",
    "target_modules": None,
    "exclude_modules": [3],
    "layers_to_transform": ["one"],
    "layers_pattern": "(",
    "rank_pattern": ["q_proj"],
    "alpha_pattern": {"(": 2},
    "something_new": {"x": 1},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(folder: Path, key: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"adapter_config.json: .*{key}"):
        read_lora(rewritten(folder, **{key: REFUSED[key]}))


def edited(folder: Path, **changes: Tensor | None) -> Path:
    """With some tensors replaced, or left out. Names are of layer 0; two underscores stand for a dot."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors.pop(full_name(name), None)
        if tensor is not None:
            tensors[full_name(name)] = tensor
    save_file(tensors, path)
    return folder


def full_name(name: str) -> str:
    return f"base_model.model.model.layers.0.{name.replace('__', '.')}"


BROKEN: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "half a pair": ({"self_attn__q_proj__lora_A__weight": None}, "missing.*q_proj.lora_A"),
    "a pair of none": (
        {"self_attn__q_proj__lora_A__weight": None, "self_attn__q_proj__lora_B__weight": None},
        "missing.*q_proj.lora_A",
    ),
    "an embedding": ({"embed_tokens__lora_embedding_A": torch.ones(4, 97)}, "left-over.*lora_embedding_A"),
    "a vector of DoRA's": (
        {"self_attn__q_proj__lora_magnitude_vector": torch.ones(32)},
        "left-over.*magnitude_vector",
    ),
    "a module that is not there": (
        {
            "self_attn__r_proj__lora_A__weight": torch.ones(4, 32),
            "self_attn__r_proj__lora_B__weight": torch.ones(32, 4),
        },
        "left-over.*r_proj",
    ),
    "another rank": ({"self_attn__q_proj__lora_A__weight": torch.ones(5, 32)}, "q_proj has .5, 32"),
    "another width": ({"self_attn__q_proj__lora_A__weight": torch.ones(4, 31)}, "q_proj changes .32, 31"),
    "another height": ({"self_attn__k_proj__lora_B__weight": torch.ones(32, 4)}, "k_proj changes .32, 32"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_tensors_that_do_not_fit_are_named(base: LoadedDecoder, folder: Path, what: str) -> None:
    tensors, message = BROKEN[what]
    before = logits(base, {})
    with pytest.raises(WeightsMismatch, match=message):
        attach(base, read_lora(edited(folder, **tensors)), "one")
    assert all(map(torch.equal, logits(base, dict.fromkeys(TEXTS, "one")), before)), "all or nothing"


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = load_decoder(oracle_of(DECODERS["gpt2, plain"]()), tmp_path / "gpt2")
    with pytest.raises(WeightsMismatch, match=r"left-over tensors: .*q_proj"):
        attach(other, read_lora(folder), "one")


def test_a_tied_head_takes_no_change_of_its_own(tmp_path: Path) -> None:
    oracle = oracle_of(DECODERS["llama, tied head"]())
    loaded = load_decoder(oracle, tmp_path / "base")
    adapt(oracle, tmp_path / "lora", target_modules=["lm_head"])
    with pytest.raises(WeightsMismatch, match=r"left-over tensors: .*lm_head"):
        attach(loaded, read_lora(tmp_path / "lora"), "one")


def test_projections_of_narrow_embeddings_take_no_change(tmp_path: Path) -> None:
    oracle = oracle_of(DECODERS["opt, norms behind, narrow embeddings"]())
    loaded = load_decoder(oracle, tmp_path / "base")
    adapt(oracle, tmp_path / "lora")
    with pytest.raises(WeightsMismatch, match=r"left-over tensors: .*project_in"):
        attach(loaded, read_lora(tmp_path / "lora"), "one")


def test_pickle_is_refused_and_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"adapter_model\.safetensors"):
        read_lora(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(PickleRefused, match=r"adapter_model\.bin"):
        read_lora(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(BrokenCheckpoint, match=r"adapter_config\.json"):
        read_lora(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "target_modules": ["q_proj"]}))
    with pytest.raises(BrokenCheckpoint, match="safetensors"):
        read_lora(tmp_path)


def test_other_weights_are_told_apart(folder: Path) -> None:
    first = read_lora(folder)
    assert first.fingerprint == read_lora(folder).fingerprint
    assert first.fingerprint != read_lora(rewritten(folder, lora_alpha=9)).fingerprint

"""The masked-LM adapter: merged beside its encoder, trained, and what the shipped one says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.adapter import CONFIG, WEIGHTS, Adapter, masked_lm, read_adapter
from models.config import Activation, EncoderConfig, EncoderHead, HeadTask, Norm
from models.defaults.training.evaluate_masked_lm import first_five
from models.defaults.training.masking import Special, hide, open_tokenizer, windows_of
from models.encoder import Encoder
from models.errors import BrokenCheckpoint, SourceUnreachable, WeightsMismatch
from models.heads import MaskedLM
from models.loading import LoadedEncoder, load
from models.positions import Learned
from models.weights.sources import MINILM, resolve
from server.settings import Settings

SHIPPED = Path(__file__).parents[2] / "models" / "defaults" / "minilm_mlm"
CONFIG_OF_TINY = EncoderConfig(
    architecture="bert",
    vocab_size=50,
    hidden_size=16,
    layers=2,
    heads=2,
    mlp_size=32,
    context_length=40,
    norm_eps=1e-12,
    activation=Activation.GELU,
    positions=Learned(rows=40),
    segments=2,
    tasks={HeadTask.MASKED_LM: EncoderHead(activation=Activation.GELU, norm=Norm.LAYER)},
)


def tiny_encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(CONFIG_OF_TINY).requires_grad_(False)


def random_adapter(encoder: Encoder, rank: int = 4) -> Adapter:
    tensors: dict[str, Tensor] = {
        "head.transform.weight": torch.randn(16, 16),
        "head.transform.bias": torch.randn(16),
        "head.norm.weight": torch.randn(16),
        "head.norm.bias": torch.randn(16),
        "head.bias": torch.randn(50),
    }
    for path, layer in encoder.named_modules():
        if isinstance(layer, torch.nn.Linear):
            tensors[f"{path}.lora_a"] = torch.randn(rank, layer.in_features)
            tensors[f"{path}.lora_b"] = torch.randn(layer.out_features, rank)
    return Adapter(path=Path("somewhere"), base_sha256="", scale=0.5, tensors=tensors)


def test_an_adapter_adds_scale_times_b_a_to_every_linear_weight() -> None:
    encoder = tiny_encoder()
    adapter = random_adapter(encoder)
    adapted = masked_lm(adapter, CONFIG_OF_TINY, encoder).encoder
    for path, layer in encoder.named_modules():
        if isinstance(layer, torch.nn.Linear):
            change = 0.5 * adapter.tensors[f"{path}.lora_b"] @ adapter.tensors[f"{path}.lora_a"]
            assert torch.equal(adapted.get_parameter(f"{path}.weight"), layer.weight + change)


def test_the_original_encoder_stays_as_it_is_and_lends_its_embeddings() -> None:
    encoder, before = tiny_encoder(), tiny_encoder().state_dict()
    model = masked_lm(random_adapter(encoder), CONFIG_OF_TINY, encoder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert model.encoder.embeddings is encoder.embeddings
    assert model.head.words is encoder.embeddings.words


def test_a_projection_of_the_embeddings_is_lent_too() -> None:
    config = replace(CONFIG_OF_TINY, embedding_size=16)
    torch.manual_seed(0)
    encoder = Encoder(config).requires_grad_(False)
    adapter = random_adapter(encoder)
    shared = {name: one for name, one in adapter.tensors.items() if not name.startswith("embeddings.")}
    before = encoder.get_parameter("embeddings.project.weight").clone()
    model = masked_lm(replace(adapter, tensors=shared), config, encoder)
    assert torch.equal(model.encoder.get_parameter("embeddings.project.weight"), before)


def test_whatever_does_not_fit_is_listed() -> None:
    encoder = tiny_encoder()
    adapter = random_adapter(encoder)
    tensors = dict(adapter.tensors)
    tensors["pooler.weight"] = tensors.pop("head.bias")
    tensors["blocks.1.mlp.up.lora_b"] = torch.randn(31, 4)
    broken = Adapter(path=adapter.path, base_sha256="", scale=1.0, tensors=tensors)
    with pytest.raises(WeightsMismatch) as caught:
        masked_lm(broken, CONFIG_OF_TINY, encoder)
    assert caught.value.missing == ("head.bias",)
    assert caught.value.left_over == ("pooler.weight",)
    assert "blocks.1.mlp.up.lora_b is [31, 4], not [32, 4]" in str(caught.value)


def test_a_folder_that_holds_no_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokenCheckpoint, match=str(tmp_path)):
        read_adapter(tmp_path)
    (tmp_path / CONFIG).write_text('{"base_sha256": "x", "rank": 2}')
    save_file({"x": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(BrokenCheckpoint, match="alpha"):
        read_adapter(tmp_path)


def test_only_text_is_hidden_never_what_frames_it() -> None:
    special = Special(cls=1, sep=2, mask=3)
    windows = [np.arange(10, 30, dtype=np.int32), np.arange(30, 40, dtype=np.int32)]
    batch = hide(windows, 0.5, special, np.random.default_rng(0))
    assert batch.lengths == [22, 12]
    assert (batch.tokens[batch.rows] == special.mask).all()
    restored = batch.tokens.clone()
    restored[batch.rows] = batch.labels
    assert restored.tolist() == [1, *range(10, 30), 2, 1, *range(30, 40), 2]


def test_windows_cover_a_document_in_order() -> None:
    document = np.arange(1000, dtype=np.int32)
    for draw in (None, np.random.default_rng(0)):
        windows = list(windows_of(document, draw))
        assert max(map(len, windows)) <= 126
        joined = np.concatenate(windows)
        assert (np.diff(joined) >= 1).all()
        assert len(joined) > 990  # scraps at the ends are left out


@pytest.fixture(scope="module")
def minilm() -> Path:
    try:
        return resolve(MINILM.name, cache=Settings().cache)
    except SourceUnreachable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def shipped(minilm: Path) -> MaskedLM:
    loaded = load(minilm, device=torch.device("cpu"), dtype=torch.float32, adapter=SHIPPED)
    assert isinstance(loaded, LoadedEncoder)
    assert loaded.masked_lm is not None
    return loaded.masked_lm


def test_the_shipped_adapter_was_trained_on_the_weights_that_are_served() -> None:
    assert read_adapter(SHIPPED).base_sha256 == MINILM.sha256


@pytest.mark.parametrize(
    ("sentence", "word"),
    [
        ("Paris is the [MASK] of France.", "capital"),
        ("The [MASK] barked at the cat.", "dog"),
        ("She drank a cup of [MASK].", "tea"),
        ("He is the [MASK] of the United States.", "president"),
    ],
)
def test_the_shipped_adapter_knows_what_belongs_at_the_mask(
    minilm: Path, shipped: MaskedLM, sentence: str, word: str
) -> None:
    assert word in first_five(shipped, open_tokenizer(minilm), sentence)

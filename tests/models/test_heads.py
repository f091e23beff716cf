"""The heads of encoders compute what `transformers` computes; what they mean is read from `config.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.config import HeadTask
from models.errors import UnsupportedModel, WeightsMismatch
from models.heads import TextScores
from models.labels import Problem, read_labels, read_problem
from models.loading import LoadedEncoder, load
from models.loading_encoder import LoadedHead
from tests.models.encoder_configs import CONFIGS
from tests.models.paged import CPU
from tests.models.parity import report
from tests.models.test_encoder_parity import LENGTHS, TEXTS, TOKENS, random_oracle

SPANS = [name for name in CONFIGS if not name.startswith("nomic_bert")]  # transformers has none for it


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Quickest for small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(kind: Any, name: str, folder: Path, **settings: Any) -> tuple[Any, LoadedHead]:
    """The oracle, and the head that we make of its files."""
    config = CONFIGS[name]()
    for key, value in settings.items():
        setattr(config, key, value)
    oracle = random_oracle(kind, config)
    oracle.save_pretrained(folder)
    loaded = load_encoder(folder)
    assert loaded.head is not None
    assert loaded.parameters == sum(parameter.numel() for parameter in oracle.parameters())
    return oracle, loaded.head


def load_encoder(folder: Path) -> LoadedEncoder:
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedEncoder)
    return loaded


def check(name: str, what: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    family, _, config = name.partition(", ")
    report(family, config, what, float((actual - expected).abs().max()))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_texts_are_classified_as_by_the_reference(name: str, labels: int, tmp_path: Path) -> None:
    kind = transformers.AutoModelForSequenceClassification
    oracle, head = make(kind, name, tmp_path, num_labels=labels)
    logits = head.model(TOKENS, LENGTHS)
    check(name, "classifier", logits, torch.cat([oracle(text[None]).logits for text in TEXTS]))
    assert (head.task, len(head.labels)) == (HeadTask.SEQUENCE, labels)


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_tokens_are_classified_as_by_the_reference(name: str, tmp_path: Path) -> None:
    kind = transformers.AutoModelForTokenClassification
    oracle, head = make(kind, name, tmp_path, num_labels=5)
    logits = head.model(TOKENS, LENGTHS)
    check(name, "tokens", logits, torch.cat([oracle(text[None]).logits[0] for text in TEXTS]))
    assert (head.task, head.problem) == (HeadTask.TOKEN, Problem.SINGLE_LABEL)


@pytest.mark.parametrize("name", SPANS)
@torch.inference_mode()
def test_answers_begin_and_end_where_the_reference_finds_them(name: str, tmp_path: Path) -> None:
    oracle, head = make(transformers.AutoModelForQuestionAnswering, name, tmp_path)
    answers = [oracle(text[None]) for text in TEXTS]
    expected = [torch.stack((one.start_logits[0], one.end_logits[0]), dim=-1) for one in answers]
    check(name, "spans", head.model(TOKENS, LENGTHS), torch.cat(expected))
    assert (head.task, head.labels, head.problem) == (HeadTask.SPAN, ("start", "end"), None)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("electra")])
@torch.inference_mode()
def test_replaced_tokens_are_found_as_by_the_reference(name: str, tmp_path: Path) -> None:
    oracle, head = make(transformers.AutoModelForPreTraining, name, tmp_path)
    expected = torch.cat([oracle(text[None]).logits[0] for text in TEXTS])
    check(name, "replaced", head.model(TOKENS, LENGTHS), expected[:, None])
    assert (head.task, head.labels) == (HeadTask.REPLACED, ("replaced",))


@pytest.mark.parametrize("name", ["bert, plain", "albert, plain"])
def test_a_model_as_it_was_pre_trained_fills_masks(name: str, tmp_path: Path) -> None:
    random_oracle(transformers.AutoModelForPreTraining, CONFIGS[name]()).save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.masked_lm is not None
    assert loaded.head is None


def test_an_encoder_of_sentences_that_is_announced_as_a_masked_lm_has_no_head(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, CONFIGS["mpnet, plain"]()).save_pretrained(tmp_path)
    rewrite(tmp_path, architectures=["MPNetForMaskedLM"])
    loaded = load_encoder(tmp_path)
    assert (loaded.masked_lm, loaded.head) == (None, None)


def test_a_pair_of_texts_is_told_apart_by_its_segments(tmp_path: Path) -> None:
    oracle, head = make(
        transformers.AutoModelForSequenceClassification, "bert, plain", tmp_path, num_labels=1
    )
    segments = (torch.arange(45) > 20).long()
    with torch.inference_mode():
        expected = oracle(TEXTS[1][None], token_type_ids=segments[None]).logits
        check("bert, plain", "pairs", head.model(TEXTS[1], [45], segments), expected)
        assert not torch.allclose(head.model(TEXTS[1], [45]), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification"])
@torch.inference_mode()
def test_a_text_is_classified_with_the_same_bits_alone_and_among_others(kind: str, tmp_path: Path) -> None:
    _, head = make(getattr(transformers, f"AutoModelFor{kind}"), "bert, plain", tmp_path)
    together = head.model(TOKENS, LENGTHS)
    rows = [1] * len(TEXTS) if isinstance(head.model, TextScores) else LENGTHS
    alone = [head.model(text, [len(text)]) for text in TEXTS]
    assert all(map(torch.equal, together.split_with_sizes(rows), alone))


def test_gradients_reach_every_weight_of_a_classifier(tmp_path: Path) -> None:
    oracle = random_oracle(transformers.AutoModelForSequenceClassification, CONFIGS["modernbert, plain"]())
    oracle.save_pretrained(tmp_path)
    loaded = load(tmp_path, device=CPU, dtype=torch.float32, packed=False)
    assert isinstance(loaded, LoadedEncoder)
    assert loaded.head is not None
    model = loaded.head.model.requires_grad_(True)
    model(TOKENS, LENGTHS).logsumexp(-1).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize(
    "architecture", ["BertForMultipleChoice", "BertForNextSentencePrediction", "BertLMHeadModel", "Bert"]
)
def test_a_head_that_we_do_not_have_is_refused_by_name(architecture: str, tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, CONFIGS["bert, plain"]()).save_pretrained(tmp_path)
    rewrite(tmp_path, architectures=[architecture])
    with pytest.raises(
        UnsupportedModel,
        match=f"`architectures` is {architecture}; supported is a body, or heads for masked_lm",
    ):
        load_encoder(tmp_path)


def test_two_heads_at_once_are_refused(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, CONFIGS["bert, plain"]()).save_pretrained(tmp_path)
    rewrite(tmp_path, architectures=["BertForMaskedLM", "BertForTokenClassification"])
    with pytest.raises(UnsupportedModel, match="one head at most"):
        load_encoder(tmp_path)


def test_a_classifier_that_is_announced_but_not_there_is_missing(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, CONFIGS["bert, plain"]()).save_pretrained(tmp_path)
    rewrite(tmp_path, architectures=["BertForSequenceClassification"])
    with pytest.raises(WeightsMismatch, match=r"missing tensors: classifier\.bias, classifier\.weight"):
        load_encoder(tmp_path)


def test_a_classifier_that_is_there_but_not_announced_is_left_over(tmp_path: Path) -> None:
    random_oracle(transformers.AutoModel, CONFIGS["bert, plain"]()).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "classifier.weight": torch.zeros(2, 32)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"left-over tensors: classifier\.weight"):
        load_encoder(tmp_path)


def test_a_span_needs_two_labels(tmp_path: Path) -> None:
    kind = transformers.AutoModelForQuestionAnswering
    random_oracle(kind, CONFIGS["bert, plain"]()).save_pretrained(tmp_path)
    rewrite(tmp_path, id2label={"0": "a", "1": "b", "2": "c"})
    with pytest.raises(UnsupportedModel, match="`id2label` has 3 labels"):
        load_encoder(tmp_path)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change `config.json`."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("raw", "labels"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 1}, ("LABEL_0",)),
        ({"_num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "no", "0": "yes"}}, ("yes", "no")),
    ],
)
def test_labels_are_named_in_order(raw: Mapping[str, Any], labels: tuple[str, ...]) -> None:
    assert read_labels(raw) == labels


@pytest.mark.parametrize("names", [{"1": "a", "2": "b"}, ["a", "b"], {"x": "a"}, {}])
def test_labels_without_their_numbers_are_refused(names: Any) -> None:
    with pytest.raises(UnsupportedModel, match="numbered from 0 on"):
        read_labels({"id2label": names})


@pytest.mark.parametrize(
    ("raw", "labels", "problem"),
    [
        ({}, 3, Problem.SINGLE_LABEL),
        ({}, 1, Problem.MULTI_LABEL),
        ({"problem_type": "regression"}, 1, Problem.REGRESSION),
        ({"problem_type": "multi_label_classification"}, 3, Problem.MULTI_LABEL),
        (
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
            1,
            Problem.REGRESSION,
        ),
        (
            {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"},
            1,
            Problem.MULTI_LABEL,
        ),
    ],
)
def test_what_logits_mean_is_read(raw: Mapping[str, Any], labels: int, problem: Problem) -> None:
    assert read_problem(raw, labels) is problem


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"problem_type": "ranking"}, "`problem_type` is 'ranking'"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "`activation_fn` is 'torch.nn.Tanh'"),
    ],
)
def test_a_problem_that_we_do_not_know_is_refused(raw: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_problem(raw, 1)

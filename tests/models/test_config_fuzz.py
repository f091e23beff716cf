"""No field of a `config.json` is ignored: what transformers makes of it we make too, or refuse by name.

Each field of a small configuration of each family is given other values. Where transformers builds a model of
the changed file, either `load` refuses it with a message that names the field, or both compute the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from models.config import Activation
from models.errors import UnsupportedModel
from models.families import reading
from models.families.neutral import NEUTRAL, RUNNING
from models.families.registry import FAMILIES, read
from models.loading import load
from tests.models.mutations import Raw, mutations
from tests.models.oracles import SUBJECTS, Failed, Loaded, Subject, save
from tests.models.paged import CPU
from tests.models.parity import report

# Fields that say what the file is: another value makes it another file.
IDENTITY = {"architectures", "model_type", "transformers_version", "_name_or_path", "dtype"}
# Where a refusal may name a key that goes with the field instead.
RELATED: Mapping[str, tuple[str, ...]] = {
    "attention_types": ("attention_layers",),
    "hidden_size": ("head_dim", "pooler_hidden_size"),
    "multi_query": ("num_key_value_heads",),
    "num_attention_heads": ("head_dim",),
    "rope_parameters": (
        "rope_scaling",
        "rope_theta",
        "rope_type",
        "partial_rotary_factor",
        "truncate",
    ),
    "rope_scaling": ("rope_parameters",),
}


def cases() -> Iterator[Any]:
    """Each field of the first configuration of each family."""
    for name, family in FAMILIES.items():
        for subject in SUBJECTS[name][:1]:
            for field in sorted(subject.fields.keys() - IDENTITY - NEUTRAL - family.neutral):
                yield pytest.param(subject, field, id=f"{name}-{field}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a changed file: how far our results are from transformers', and what is wrong with that.

    Neither where we refuse it by name, or transformers makes nothing of it.
    """

    error: float | None = None
    wrong: str | None = None


def judge(subject: Subject, field: str, raw: Raw) -> Outcome:
    """Whether we take `raw`, whose `field` was changed, for what it is."""
    refusal = refusal_of(raw)
    if refusal is not None and names(refusal, field):
        return Outcome()
    try:
        oracle = subject.oracle(raw)
        expected = subject.expected(oracle)
    except Failed:
        return Outcome()
    if refusal is not None:
        return Outcome(wrong=f"refused without naming it: {refusal}")
    try:
        actual = subject.actual(reloaded(oracle, raw))
    except UnsupportedModel as refused:
        return Outcome(wrong=None if names(refused, field) else f"refused without naming it: {refused}")
    except Exception as failed:
        return Outcome(wrong=f"{type(failed).__name__}: {failed}")
    return compare(actual, expected)


def reloaded(oracle: Any, raw: Raw) -> Loaded:
    with TemporaryDirectory() as folder:
        save(oracle, raw, Path(folder))
        return load(Path(folder), device=CPU, dtype=torch.float32)


def compare(actual: torch.Tensor, expected: torch.Tensor) -> Outcome:
    error = float((actual - expected).abs().max())
    alike = torch.allclose(actual, expected, atol=1e-4, rtol=1e-5)
    return Outcome(error=error, wrong=None if alike else f"computes something else, by {error:.1e}")


def refusal_of(raw: Raw) -> UnsupportedModel | None:
    try:
        read(raw)
    except UnsupportedModel as error:
        return error
    return None


def names(refusal: UnsupportedModel, field: str) -> bool:
    return any(f"`{name}`" in str(refusal) for name in (field, *RELATED.get(field, ())))


def with_others(raw: Raw, fields: Raw, wanted: Set[str]) -> Raw:
    """`raw` with every one of these fields changed that can be changed without being nonsense."""
    changed = {field: _another(fields[field]) for field in wanted & fields.keys()}
    return {**raw, **{field: value for field, value in changed.items() if value is not None}}


def _another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():  # the number of a token, mostly
            return value + 2 if value < 3 else value - 1
        case float():  # a probability, mostly
            return value / 2 + 0.25
    return None


@pytest.mark.parametrize(("subject", "field"), list(cases()))
def test_what_transformers_takes_is_computed_alike_or_refused_by_name(subject: Subject, field: str) -> None:
    wrong = []
    for change, raw in mutations(subject.raw, field, subject.fields[field]):
        outcome = judge(subject, field, raw)
        if outcome.error is not None:
            report(raw["model_type"], f"{field} {change}", "changed fields", outcome.error)
        if outcome.wrong is not None:
            wrong.append(f"{field} {change}: {outcome.wrong}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_under_its_other_name_is_read_or_refused_by_one_of_them(family: str) -> None:
    subject = SUBJECTS[family][0]
    others: Mapping[str, str] = subject.config.attribute_map  # type: ignore[attr-defined]
    for other, name in others.items():
        raw = {other if key == name else key: value for key, value in subject.raw.items()}
        refusal = refusal_of(raw)
        if refusal is None:
            assert read(raw)[1] == read(subject.raw)[1]
        else:
            assert names(refusal, name) or names(refusal, other)


@pytest.mark.parametrize("name", reading.ACTIVATIONS)
def test_every_activation_is_the_one_that_transformers_has_under_its_name(name: str) -> None:
    subject = SUBJECTS["llama"][0]
    assert judge(subject, "", {**subject.raw, "hidden_act": name}).wrong is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_configuration_that_is_changed_is_itself_computed_alike(family: str) -> None:
    assert SUBJECTS[family], "no configuration of it is in the tables of the parity tests"
    subject = SUBJECTS[family][0]
    outcome = judge(subject, "", subject.raw)
    assert outcome.wrong is None
    assert outcome.error is not None  # or every change of it might pass as one that transformers refuses


@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_are_called_neutral_change_nothing(family: str) -> None:
    subject = SUBJECTS[family][0]
    neutral = (NEUTRAL | FAMILIES[family].neutral) - RUNNING - IDENTITY
    raw = with_others(subject.raw, subject.fields, neutral)
    outcome = judge(subject, "", raw)
    assert outcome.wrong is None
    assert outcome.error is not None


def test_a_result_that_is_silently_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reading.ACTIVATIONS, "relu", Activation.SILU)
    subject = SUBJECTS["llama"][0]
    outcome = judge(subject, "hidden_act", {**subject.raw, "hidden_act": "relu"})
    assert outcome.wrong is not None
    assert "something else" in outcome.wrong


def test_a_refusal_that_does_not_name_the_field_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(reading.ACTIVATIONS, "relu")
    subject = SUBJECTS["llama"][0]
    outcome = judge(subject, "mlp_bias", {**subject.raw, "hidden_act": "relu"})
    assert outcome.wrong is not None
    assert "without naming it" in outcome.wrong

"""What a classifier's configuration says about its answers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from models.errors import UnsupportedModel
from models.families.reading import choice, whole


class Problem(Enum):
    """What the logits of a classifier mean."""

    SINGLE_LABEL = "single_label_classification"  # one of the labels holds: softmax over all
    MULTI_LABEL = "multi_label_classification"  # any number of them: a sigmoid for each
    REGRESSION = "regression"  # numbers as they are


_PROBLEMS = {problem.value: problem for problem in Problem}
# What sentence-transformers' cross-encoders have in place of a problem's name: what is applied to the logits.
_ACTIVATIONS = {"Identity": Problem.REGRESSION, "Sigmoid": Problem.MULTI_LABEL}


def read_labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of labels 0, 1, 2 … from `id2label`, or as many as `num_labels` says, 2 if nothing does.

    Raises UnsupportedModel where they are not numbered from 0 on.
    """
    names = raw.get("id2label")
    if names is None:
        count = whole(raw, "num_labels", whole(raw, "_num_labels", 2))
        return tuple(f"LABEL_{number}" for number in range(count))
    numbers = [str(number) for number in range(len(names))] if isinstance(names, Mapping) else []
    if not numbers or {*map(str, names)} != set(numbers):
        raise UnsupportedModel(f"`id2label` is {names!r}; names for labels numbered from 0 on were expected")
    by_number = {str(number): str(name) for number, name in names.items()}
    return tuple(by_number[number] for number in numbers)


def read_problem(raw: Mapping[str, Any], labels: int) -> Problem:
    """`problem_type`, or what a cross-encoder's activation implies. Without either, the labels exclude each
    other; a single one is a matter of yes or no.

    Raises UnsupportedModel for another problem or activation.
    """
    if raw.get("problem_type") is not None:
        return choice(raw, "problem_type", _PROBLEMS)
    activation = _cross_encoder_activation(raw)
    if activation is None:
        return Problem.SINGLE_LABEL if labels > 1 else Problem.MULTI_LABEL
    name = str(activation).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(f"`activation_fn` is {activation!r}; supported: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _cross_encoder_activation(raw: Mapping[str, Any]) -> Any:
    """Of newer files, or of older ones; None: none is stated."""
    newer = raw.get("sentence_transformers")
    stated = newer.get("activation_fn") if isinstance(newer, Mapping) else None
    return raw.get("sbert_ce_default_activation_function") if stated is None else stated

"""From a folder to an encoder that is ready to run, with the head that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.adapter import WEIGHTS, masked_lm, read_adapter
from models.config import EncoderConfig, HeadTask, Pooling
from models.encoder import Encoder
from models.errors import BrokenCheckpoint, ChecksumMismatch, UnsupportedModel
from models.families.naming import Family
from models.families.reading import architectures
from models.filling import Tied, fill, provides
from models.heads import MaskedLM, MaskedLMHead, ScoringHead, TextScores, TokenScores
from models.labels import Problem, read_labels, read_problem
from models.layouts import HeadShape
from models.sentence import Sentence
from models.sentence_files import load_sentence
from models.target import Target
from models.weights.checkpoint import Checkpoint
from models.weights.fingerprint import digest, sha256_soon

# What stands behind "For" in the names that transformers gives its models.
_TASKS = {
    "MaskedLM": HeadTask.MASKED_LM,
    "SequenceClassification": HeadTask.SEQUENCE,
    "TokenClassification": HeadTask.TOKEN,
    "QuestionAnswering": HeadTask.SPAN,
}
_FIXED_LABELS = {HeadTask.SPAN: ("start", "end"), HeadTask.REPLACED: ("replaced",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedHead:
    """What an encoder was fine-tuned for; `model` contains that encoder.

    `labels` name the scores, in order; `problem`: what those of a text or token mean, None where they name
    places (question answering) or the matter is settled (ELECTRA's: a sigmoid).
    """

    task: HeadTask
    model: TextScores | TokenScores
    labels: tuple[str, ...]
    problem: Problem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder ready to run. `masked_lm` is None where neither checkpoint nor adapter has a head for it,
    `head` where it has none of another kind.

    With an adapter, `masked_lm` has linear layers of its own and shares the embeddings with `encoder`.
    """

    config: EncoderConfig
    encoder: Encoder
    masked_lm: MaskedLM | None
    head: LoadedHead | None
    sentence: Sentence  # how a text becomes one vector
    normalize: bool  # whether the model's author has these scaled to unit length
    fingerprint: str
    parameters: int


def load_encoder(
    checkpoint: Checkpoint, family: Family, config: EncoderConfig, target: Target, adapter: Path | None
) -> LoadedEncoder:
    """Raises UnsupportedModel naming a head that is not implemented, WeightsMismatch listing every tensor
    that is missing, left over, or no copy of what it should be one of, ChecksumMismatch where the adapter
    belongs to other weights."""
    adapting = None if adapter is None else _Adapting(adapter, checkpoint.path)
    task = _task(checkpoint, family)
    if task is not None:
        family = replace(family, names={**family.names, **family.heads[task]})
    with torch.device("meta"):
        encoder = Encoder(config)
        whole = _with_head(encoder, config, task, checkpoint.config)
    target.materialize(whole, checkpoint)
    tied = Tied(copies=(family.head,)) if family.head else None
    fill(whole, checkpoint, family, HeadShape.of(config), tied=tied)
    filler = whole if isinstance(whole, MaskedLM) else None
    head = _loaded_head(whole, task, checkpoint.config)
    sentence = load_sentence(checkpoint.path, config.hidden_size, target.device)
    if adapting is not None:
        filler = adapting.masked_lm(config, encoder)
    parts = (encoder, filler, head.model if head else None, sentence.module)
    parameters = target.finish(nn.ModuleList(part for part in parts if part is not None))
    adapted = [] if adapter is None else [digest([adapter / WEIGHTS])]
    return LoadedEncoder(
        config=config,
        parameters=parameters,
        encoder=encoder,
        masked_lm=filler,
        head=head,
        sentence=sentence.module,
        normalize=sentence.normalize,
        fingerprint=target.fingerprint([checkpoint.fingerprint(), *sentence.fingerprints, *adapted]),
    )


def _task(checkpoint: Checkpoint, family: Family) -> HeadTask | None:
    """What the checkpoint has a head for. That for masked words may be missing whatever is announced:
    encoders of sentences keep the announcement of what they were made from."""
    announced = _announced(checkpoint.config, family)
    if announced not in (None, HeadTask.MASKED_LM):
        return announced
    names = family.heads.get(HeadTask.MASKED_LM, {})
    named = replace(family, names={**family.names, **names})
    tensors = (name if name == "head.bias" else f"{name}.weight" for name in names)
    return HeadTask.MASKED_LM if any(provides(checkpoint, named, name) for name in tensors) else None


def _announced(raw: Mapping[str, Any], family: Family) -> HeadTask | None:
    """By `architectures`; None: no head. Raises UnsupportedModel naming a head that we do not have."""
    names = architectures(raw)
    tasks = {_named(name, family) for name in names}
    if len(tasks) > 1:
        raise UnsupportedModel(f"`architectures` is {names!r}; one head at most is supported")
    return tasks.pop() if tasks else None


def _named(architecture: str, family: Family) -> HeadTask | None:
    body, _, purpose = architecture.partition("For")
    if not purpose and body.endswith("Model") and not body.endswith("LMHeadModel"):
        return None
    task = _TASKS.get(purpose)
    if purpose == "PreTraining":
        task = HeadTask.REPLACED if HeadTask.REPLACED in family.heads else HeadTask.MASKED_LM
    if task not in family.heads:
        supported = ", ".join(one.value for one in family.heads)
        raise UnsupportedModel(
            f"`architectures` is {architecture}; supported is a body, or heads for {supported}"
        )
    return task


def _with_head(
    encoder: Encoder, config: EncoderConfig, task: HeadTask | None, raw: Mapping[str, Any]
) -> Encoder | MaskedLM | TextScores | TokenScores:
    if task is None:
        return encoder
    if task is HeadTask.MASKED_LM:
        return MaskedLM(encoder, MaskedLMHead(config, encoder.embeddings.words))
    head = config.tasks[task]
    scoring = ScoringHead(head, config, len(_labels(task, raw)))
    if task is HeadTask.SEQUENCE:
        return TextScores(encoder, scoring, head.pooling or Pooling.CLS)
    return TokenScores(encoder, scoring)


def _labels(task: HeadTask, raw: Mapping[str, Any]) -> tuple[str, ...]:
    labels = _FIXED_LABELS.get(task) or read_labels(raw)
    if task is HeadTask.SPAN and len(read_labels(raw)) != len(labels):
        raise UnsupportedModel(
            f"`id2label` has {len(read_labels(raw))} labels; a span has a start and an end"
        )
    return labels


def _loaded_head(whole: nn.Module, task: HeadTask | None, raw: Mapping[str, Any]) -> LoadedHead | None:
    if task is None or not isinstance(whole, TextScores | TokenScores):
        return None
    labels = _labels(task, raw)
    problem = None if task in _FIXED_LABELS else read_problem(raw, len(labels))
    return LoadedHead(task=task, model=whole, labels=labels, problem=problem)


class _Adapting:
    """An adapter whose base is being hashed while that is loaded."""

    def __init__(self, folder: Path, base: Path) -> None:
        """Raises BrokenCheckpoint."""
        self._adapter = read_adapter(folder)
        self._weights = base / "model.safetensors"
        if not self._weights.is_file():
            raise BrokenCheckpoint(base, f"the adapter in {folder} needs its model.safetensors, in one piece")
        self._sha256 = sha256_soon(self._weights)

    def masked_lm(self, config: EncoderConfig, encoder: Encoder) -> MaskedLM:
        """Raises ChecksumMismatch where it was trained on other weights: it would load all the same."""
        actual = self._sha256()
        if actual != self._adapter.base_sha256:
            raise ChecksumMismatch(str(self._weights), expected=self._adapter.base_sha256, actual=actual)
        return masked_lm(self._adapter, config, encoder)

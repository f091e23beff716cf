"""A small model of each family as transformers has it: what it computes, and what we make of its files."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from models.loading import LoadedDecoder, LoadedEncoder, LoadedSeq2Seq
from tests.models import (
    decoder_configs_a,
    decoder_configs_b,
    encoder_configs,
    paged,
    paged_seq2seq,
    seq2seq_configs,
)
from tests.models.mutations import Raw

Loaded = LoadedDecoder | LoadedEncoder | LoadedSeq2Seq

transformers.logging.disable_progress_bar()

# Longer than the windows of the configurations, shorter than their contexts; small token numbers, so that
# a halved vocabulary has them too, but none that means something.
TEXTS = [torch.randint(5, 20, (n,), generator=torch.Generator().manual_seed(n)) for n in (37, 5)]
# A larger model is slow and proves no more: where a size left out defaults to one of a real model.
MOST_PARAMETERS = 4_000_000


class Failed(Exception):
    """Transformers makes no model of a configuration, or one whose results are no numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Models that are built, asked and compared alike."""

    auto: Any  # the class of transformers that builds one from its configuration
    expected: Callable[[Any], Tensor]  # what transformers' model says of `TEXTS`
    actual: Callable[[Any], Tensor]  # what ours says


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A configuration of a family: as its file has it (`raw`), and with all defaults filled in (`fields`)."""

    kind: Kind
    config: type
    raw: Raw
    fields: Raw

    @classmethod
    def of(cls, kind: Kind, config: Any) -> Subject:
        model = kind.auto._model_mapping[type(config)]
        raw = json.loads(config.to_json_string()) | {"architectures": [model.__name__]}
        return cls(
            kind=kind, config=type(config), raw=raw, fields=json.loads(config.to_json_string(use_diff=False))
        )

    def oracle(self, raw: Raw) -> Any:
        """The model of random weights that transformers makes of a file. Raises Failed where it cannot."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = self.config.from_dict(json.loads(json.dumps(raw)))  # type: ignore[attr-defined]
                if self.raw.keys() - raw.keys():
                    _check_size(self.kind.auto, config)
                return _random(self.kind.auto, config)
        except Exception as error:  # whatever a library raises that is given nonsense
            raise Failed(str(error)) from error

    def expected(self, oracle: Any) -> Tensor:
        """What the model says of `TEXTS`. Raises Failed where it fails, or these are no numbers."""
        try:
            with torch.inference_mode():
                expected = self.kind.expected(oracle)
        except Exception as error:
            raise Failed(str(error)) from error
        if not expected.isfinite().all():
            raise Failed("the results are not finite")
        return expected

    @torch.inference_mode()
    def actual(self, loaded: Loaded) -> Tensor:
        return self.kind.actual(loaded)


def save(oracle: Any, raw: Raw, folder: Path) -> None:
    """The weights of `oracle`, with a `config.json` that says `raw` to the letter."""
    oracle.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(raw))


def _check_size(auto: Any, config: Any) -> None:
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise Failed(f"{size} parameters")


def _random(auto: Any, config: Any) -> Any:
    torch.manual_seed(0)
    oracle = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():  # biases and norms too, which start as 0 and 1
            if parameter.requires_grad:  # sines and cosines are what they are
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return oracle


def _decoded(loaded: LoadedDecoder) -> Tensor:
    texts = {str(number): text.tolist() for number, text in enumerate(TEXTS)}
    return torch.cat(paged.Session(loaded.decoder, loaded.config).step(texts.items()))


def _answered(loaded: LoadedSeq2Seq) -> Tensor:
    """Each text as a source, the other as its answer."""
    session = paged_seq2seq.Session(loaded.model)
    sources = {str(number): text.tolist() for number, text in enumerate(TEXTS)}
    session.encode(sources)
    return torch.cat(session.step(zip(sources, reversed(sources.values()), strict=True)))


def _encoded(loaded: LoadedEncoder) -> Tensor:
    tokens, lengths = torch.cat(TEXTS), [len(text) for text in TEXTS]
    assert loaded.masked_lm is not None
    logits: Tensor = loaded.masked_lm(tokens, lengths, torch.arange(len(tokens)))
    return logits


def _logits(oracle: Any) -> Tensor:
    return torch.cat([oracle(text[None]).logits[0] for text in TEXTS])


def _answer_logits(oracle: Any) -> Tensor:
    pairs = zip(TEXTS, reversed(TEXTS), strict=True)
    return torch.cat(
        [oracle(input_ids=text[None], decoder_input_ids=answer[None]).logits[0] for text, answer in pairs]
    )


DECODER = Kind(auto=transformers.AutoModelForCausalLM, expected=_logits, actual=_decoded)
ENCODER = Kind(auto=transformers.AutoModelForMaskedLM, expected=_logits, actual=_encoded)
SEQ2SEQ = Kind(auto=transformers.AutoModelForSeq2SeqLM, expected=_answer_logits, actual=_answered)
_TABLES: tuple[tuple[Kind, Mapping[str, Callable[[], Any]]], ...] = (
    (DECODER, decoder_configs_a.CONFIGS),
    (DECODER, decoder_configs_b.CONFIGS),
    (ENCODER, encoder_configs.CONFIGS),
    (SEQ2SEQ, seq2seq_configs.CONFIGS),
)


def _subjects() -> dict[str, list[Subject]]:
    found = defaultdict[str, list[Subject]](list)
    for kind, table in _TABLES:
        for build in table.values():
            config = build()
            found[config.model_type].append(Subject.of(kind, config))
    return found


# Every configuration of the tables of parity, by the name of its family in a file.
SUBJECTS: Mapping[str, Sequence[Subject]] = _subjects()

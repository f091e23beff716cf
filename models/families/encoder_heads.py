"""The heads that most families of encoders have alike."""

from __future__ import annotations

from collections.abc import Mapping

from models.config import Activation, EncoderHead, HeadTask, Norm, Pooling
from models.families.naming import Names


def heads(words: Activation, pooled: Activation = Activation.TANH) -> Mapping[HeadTask, EncoderHead]:
    """BERT's, with an activation before masked words are told and one before texts are classified."""
    return {
        HeadTask.MASKED_LM: EncoderHead(activation=words, norm=Norm.LAYER),
        HeadTask.SEQUENCE: EncoderHead(activation=pooled, pooling=Pooling.CLS),
        HeadTask.TOKEN: EncoderHead(),
        HeadTask.SPAN: EncoderHead(),
    }


def names(masked_lm: Names, pooled: str, out: str = "classifier") -> Mapping[HeadTask, Names]:
    """Of these: `pooled` and `out` are the two layers of the classifier of texts."""
    return {
        HeadTask.MASKED_LM: masked_lm,
        HeadTask.SEQUENCE: {"head.transform": pooled, "head.out": out},
        HeadTask.TOKEN: {"head.out": "classifier"},
        HeadTask.SPAN: {"head.out": "qa_outputs"},
    }

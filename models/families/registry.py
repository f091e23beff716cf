"""Every family that is implemented, by the name that a configuration gives it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from models.config import Config
from models.errors import UnsupportedModel
from models.families import (
    albert,
    bart,
    bert,
    bloom,
    cohere,
    deberta,
    distilbert,
    electra,
    falcon,
    gemma,
    gemma3,
    gguf,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gptj,
    llama,
    m2m,
    marian,
    mbart,
    mistral,
    modernbert,
    mpnet,
    mt5,
    nomic_bert,
    olmo,
    opt,
    pegasus,
    phi,
    phi3,
    qwen,
    roberta,
    smollm3,
    stablelm,
    t5,
)
from models.families.naming import Family
from models.families.neutral import NEUTRAL, STATED
from models.families.reading import Fields, choice

FAMILIES: Mapping[str, Family] = {
    "albert": albert.FAMILY,
    "bart": bart.FAMILY,
    "bert": bert.FAMILY,
    "bloom": bloom.FAMILY,
    "camembert": roberta.FAMILY,
    "cohere": cohere.FAMILY,
    "deberta-v2": deberta.FAMILY,
    "distilbert": distilbert.FAMILY,
    "electra": electra.FAMILY,
    "falcon": falcon.FAMILY,
    "gemma": gemma.GEMMA,
    "gemma2": gemma.GEMMA2,
    "gemma3_text": gemma3.FAMILY,
    "gpt2": gpt2.FAMILY,
    "gpt_bigcode": gpt_bigcode.FAMILY,
    "gpt_neo": gpt_neo.FAMILY,
    "gpt_neox": gpt_neox.FAMILY,
    "gptj": gptj.FAMILY,
    "llama": llama.FAMILY,
    "m2m_100": m2m.FAMILY,
    "marian": marian.FAMILY,
    "mbart": mbart.FAMILY,
    "ministral": mistral.MINISTRAL,
    "mistral": mistral.MISTRAL,
    "modernbert": modernbert.FAMILY,
    "mpnet": mpnet.FAMILY,
    "mt5": mt5.FAMILY,
    "nomic_bert": nomic_bert.FAMILY,
    "olmo": olmo.OLMO,
    "olmo2": olmo.OLMO2,
    "olmo3": olmo.OLMO3,
    "opt": opt.FAMILY,
    "pegasus": pegasus.FAMILY,
    "phi": phi.FAMILY,
    "phi3": phi3.FAMILY,
    "qwen2": qwen.QWEN2,
    "qwen3": qwen.QWEN3,
    "roberta": roberta.FAMILY,
    "smollm3": smollm3.FAMILY,
    "stablelm": stablelm.FAMILY,
    "t5": t5.FAMILY,
    "xlm-roberta": roberta.FAMILY,
}


def read(raw: Mapping[str, Any]) -> tuple[Family, Config]:
    """The family that a config.json (`model_type`) or GGUF metadata (`general.architecture`) names, and what
    it makes of the rest.

    Raises UnsupportedModel naming an architecture that is not there, with the nearest that is, or every key
    that is not implemented.
    """
    if "general.architecture" in raw:
        family, name = choice(raw, "general.architecture", gguf.FAMILIES), raw["general.architecture"]
        raw = {key: value for key, value in raw.items() if key.startswith((f"{name}.", gguf.FACTS))}
    else:
        family, name = _named(raw.get("model_type")), raw["model_type"]
        raw = _respelled(raw, family.keys)
    fields = Fields(raw)
    config = _config(family, fields)
    unread = sorted(set(fields.unread()) - NEUTRAL - family.neutral)
    unread = [key for key in unread if key not in STATED or raw[key] != STATED[key]]
    if unread:
        keys = ", ".join(f"`{key}` {raw[key]!r}" for key in unread)
        raise UnsupportedModel(f"the model's configuration has {keys}: not supported for {name}")
    return family, config


def _respelled(raw: Mapping[str, Any], keys: Mapping[str, str]) -> Mapping[str, Any]:
    """With today's names for what older files call otherwise. UnsupportedModel where both are there, and
    disagree."""
    found = dict(raw)
    for old, new in keys.items():
        value = found.pop(old, None)
        if value is None:
            continue
        if found.get(new) not in (None, value):
            raise UnsupportedModel(f"`{old}` is {value!r}, but `{new}`, which means the same, {found[new]!r}")
        found[new] = value
    return found


def _config(family: Family, raw: Mapping[str, Any]) -> Config:
    try:
        return family.config(raw)
    except ValueError as error:  # sizes that contradict each other
        raise UnsupportedModel(f"the model's configuration: {error}") from error


def _named(name: Any) -> Family:
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    near = get_close_matches(str(name), FAMILIES, n=1, cutoff=0.5)
    nearest = f"; the nearest that is: {near[0]}" if near else ""
    supported = ", ".join(FAMILIES)
    raise UnsupportedModel(f"`model_type` is {name!r}, which is not supported{nearest} (all: {supported})")

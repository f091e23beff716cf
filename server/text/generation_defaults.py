"""How a folder would have its model generate where a request does not say.

generation_config.json says it, and then alone; where there is none, config.json's own fields do, as models
were published before. config.json may name tasks besides, with parameters for each and a prefix that the
model was trained to see before the text: T5's "summarize: " (Raffel et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from server.text.errors import GenerationConfigUnusable
from server.text.json_files import read_object

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """None: the folder does not say. Lengths are in tokens."""

    decoder_start: int | None = None  # the token that an encoder-decoder's answer follows
    forced_first: int | None = None  # the token that it begins with
    forced_last: int | None = None  # the token that it ends with where it is cut at its longest
    num_beams: int | None = None
    length_penalty: float | None = None  # a beam's log-probability is divided by its length to this power
    early_stopping: EarlyStopping | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    min_length: int | None = None  # of prompt and answer of a decoder, of the answer of an encoder-decoder
    max_length: int | None = None
    min_new_tokens: int | None = None
    max_new_tokens: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None  # token runs that must not be completed
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    prefix: str = ""  # stands before every text
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what is different in each

    def for_task(self, name: str) -> GenerationDefaults:
        """With that task's own parameters and prefix; unchanged where the folder has none for it."""
        return replace(self, **self.tasks.get(name, {}))


def read_generation_defaults(path: Path) -> GenerationDefaults:
    """Of a model folder; a .gguf file says nothing. Raises GenerationConfigUnusable naming file and key."""
    if not path.is_dir():
        return GenerationDefaults()
    try:
        return _defaults(path)
    except ValueError as error:
        raise GenerationConfigUnusable(path, str(error)) from error


def _defaults(path: Path) -> GenerationDefaults:
    model = read_object(path / "config.json")
    separate = (path / "generation_config.json").is_file()
    file = "generation_config.json" if separate else "config.json"
    stated = read_object(path / file)
    values = _read(stated, _READERS, where=f"{file}: ")
    if model.get("is_encoder_decoder") and values.get("decoder_start") is None:
        values |= _read(stated, {"bos_token_id": ("decoder_start", _token)}, where=f"{file}: ")
    prefix = _read(model, _PREFIX, where="config.json: ")
    return GenerationDefaults(**values, **prefix, tasks=_tasks(model))


def _tasks(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    stated = model.get("task_specific_params") or {}
    if not isinstance(stated, dict) or not all(isinstance(task, dict) for task in stated.values()):
        raise ValueError("config.json: `task_specific_params` is not an object of objects")
    return {
        name: _read(task, _READERS | _PREFIX, where=f"config.json: task_specific_params.{name}: ")
        for name, task in stated.items()
    }


Reader = Callable[[Any], Any]  # raises ValueError saying what the value should be


def _read(
    stated: Mapping[str, Any], readers: Mapping[str, tuple[str, Reader]], *, where: str
) -> dict[str, Any]:
    """Fields with their values; null is as good as nothing."""
    found = {}
    for key, (name, reader) in readers.items():
        value = stated.get(key)
        if value is None:
            continue
        try:
            found[name] = reader(value)
        except ValueError as error:
            raise ValueError(f"{where}`{key}` is {value!r}, not {error}") from None
    return found


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a whole number of 0 or more")
    return value


def _token(value: Any) -> int:
    """Some files have a list of one."""
    (token,) = value if isinstance(value, list) and len(value) == 1 else (value,)
    if type(token) is not int or token < 0:
        raise ValueError("the id of one token")
    return token


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("a number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _early_stopping(value: Any) -> EarlyStopping:
    if value == "never":
        return "never"
    if not isinstance(value, bool):
        raise ValueError('true, false or "never"')
    return value


def _runs(value: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(run, list) for run in value):
        raise ValueError("a list of lists of token ids")
    return tuple(tuple(_token(token) for token in run) for run in value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


_PREFIX: dict[str, tuple[str, Reader]] = {"prefix": ("prefix", _text)}
_READERS: dict[str, tuple[str, Reader]] = {
    "decoder_start_token_id": ("decoder_start", _token),
    "forced_bos_token_id": ("forced_first", _token),
    "forced_eos_token_id": ("forced_last", _token),
    "num_beams": ("num_beams", _count),
    "length_penalty": ("length_penalty", _number),
    "early_stopping": ("early_stopping", _early_stopping),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", _count),
    "repetition_penalty": ("repetition_penalty", _number),
    "min_length": ("min_length", _count),
    "max_length": ("max_length", _count),
    "min_new_tokens": ("min_new_tokens", _count),
    "max_new_tokens": ("max_new_tokens", _count),
    "bad_words_ids": ("bad_words_ids", _runs),
    "do_sample": ("do_sample", _flag),
    "temperature": ("temperature", _number),
    "top_k": ("top_k", _count),
    "top_p": ("top_p", _number),
}

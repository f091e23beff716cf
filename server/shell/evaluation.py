"""Loads a model as a server would, and has it tell a text."""

from __future__ import annotations

from pathlib import Path

import torch

from models.evaluation import (
    Evaluation,
    Score,
    Window,
    continuing,
    decoder_score,
    evaluate,
    hiding,
    masked_score,
)
from models.loading import LoadedDecoder, LoadedEncoder, LoadedSeq2Seq, load
from models.native.quantise import Quantise
from server.execution.device import choose_device, choose_dtype
from server.execution.kernels import open_kernels
from server.execution.threads import usable_cores
from server.model_setups import bring_models
from server.settings import Settings
from server.text.tokenizer import Tokenizer, load_tokenizer

WINDOW = 1024

Loaded = LoadedDecoder | LoadedEncoder | LoadedSeq2Seq


def evaluate_text(
    settings: Settings,
    text: str,
    *,
    against: Settings | None = None,
    window: int | None = None,
    stride: int | None = None,
    most: int | None = None,
) -> Evaluation:
    """The model of `settings`, beside the same one in the precision of `against`.

    `window`, `stride` and `most` in tokens. Raises ValueError naming what does not fit, ModelError and
    DeviceError.
    """
    [setup] = bring_models(settings)
    path, adapter = Path(setup.path), None if setup.adapter is None else Path(setup.adapter)
    tokenizer = load_tokenizer(path)
    model = _load(settings, path, adapter)
    context = _context(model, settings)
    size = min(WINDOW, context) if window is None else window
    if not 8 <= size <= context:
        raise ValueError(f"--window is {size}; this model takes 8 to {context} tokens")
    windows, told = _windows(model, tokenizer, text, size=size, stride=stride, most=most)
    other = None if against is None else _score(_load(against, path, adapter), against, size)
    return evaluate(windows, told, _score(model, settings, size), other)


def _load(settings: Settings, path: Path, adapter: Path | None) -> Loaded:
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    quantise = None if settings.quantize == "none" else Quantise(settings.quantize)
    threads = settings.threads or usable_cores()
    kernels = open_kernels(settings.kernels, settings.cache, threads, device, dtype, quantise)
    torch.set_num_threads(threads if kernels is None else 1)
    return load(path, device=device, dtype=dtype, adapter=adapter, kernels=kernels, quantise=quantise)


def _context(model: Loaded, settings: Settings) -> int:
    """The longest window. Raises ValueError for a model that tells no tokens."""
    match model:
        case LoadedDecoder():
            return model.config.context_length
        case LoadedEncoder(masked_lm=masked) if masked is not None:
            return model.config.context_length
    raise ValueError(f"--model {settings.model[0]} neither continues a text nor fills masks")


def _windows(
    model: Loaded, tokenizer: Tokenizer, text: str, *, size: int, stride: int | None, most: int | None
) -> tuple[list[Window], list[tuple[int, ...]]]:
    """What is to be told, and the right tokens."""
    tokens = list(tokenizer.encode(text, add_special_tokens=False))[:most]
    if isinstance(model, LoadedDecoder):
        step = size // 2 if stride is None else stride
        if not 1 <= step < size:
            raise ValueError(f"--stride is {step}; it must be 1 to {size - 1}, less than the window")
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        windows = continuing(tokens, size=size, stride=step, start=start)
        return windows, [tuple(one.tokens[place] for place in one.places) for one in windows]
    if tokenizer.mask_id is None:
        raise ValueError("the model's tokenizer has no mask token")
    pieces = hiding(tokens, size=size, mask=tokenizer.mask_id, around=_around(tokenizer))
    return [window for window, _ in pieces], [hidden for _, hidden in pieces]


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and behind a text."""
    bare = list(tokenizer.encode("a", add_special_tokens=False))
    whole = list(tokenizer.encode("a"))
    start = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _score(model: Loaded, settings: Settings, size: int) -> Score:
    device = choose_device(settings.device)
    if isinstance(model, LoadedDecoder):
        return decoder_score(model.decoder, choose_dtype(settings.dtype, device), size=size, device=device)
    assert isinstance(model, LoadedEncoder)
    assert model.masked_lm is not None
    return masked_score(model.masked_lm, device)

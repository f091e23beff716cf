"""Whole models with weights of few bits: what they lose, what they keep, and what cannot be."""

from __future__ import annotations

import pydoc_data.topics
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from models.errors import UnsupportedModel
from models.evaluation import Evaluation, continuing, decoder_score, evaluate
from models.invariance import Scores, keeps_its_bits
from models.loading import LoadedDecoder, load
from models.native.library import Library
from models.native.quantise import Quantise
from models.weights.sources import SMOLLM2
from server.settings import Settings
from server.text.tokenizer import load_tokenizer

CPU = torch.device("cpu")
WINDOW, TOKENS = 512, 1024


@pytest.fixture(scope="module")
def gguf() -> Path:
    path = SMOLLM2.path(Settings().cache)
    if not path.is_file():
        pytest.skip("the default decoder is not in the cache")
    return path


def loaded(gguf: Path, kernels: Library, quantise: Quantise | None) -> LoadedDecoder:
    decoder = load(gguf, device=CPU, dtype=torch.bfloat16, kernels=kernels, quantise=quantise)
    assert isinstance(decoder, LoadedDecoder)
    return decoder


def compared(gguf: Path, kernels: Library, quantise: Quantise) -> Evaluation:
    """With bfloat16, on English prose: Python's own documentation."""
    text = "".join(topic[:3000] for _, topic in sorted(pydoc_data.topics.topics.items()))
    tokens = list(load_tokenizer(gguf).encode(text))[:TOKENS]
    windows = continuing(tokens, size=WINDOW, stride=WINDOW - 1)
    told = [tuple(window.tokens[place] for place in window.places) for window in windows]
    here, there = (
        decoder_score(loaded(gguf, kernels, each).decoder, torch.bfloat16, size=WINDOW)
        for each in (quantise, None)
    )
    return evaluate(windows, told, here, there)


@pytest.mark.defaults
@pytest.mark.parametrize("quantise", [Quantise.KEEP, Quantise.INT4])
def test_the_blocks_of_a_file_lose_nothing(gguf: Path, kernels: Library, quantise: Quantise) -> None:
    result = compared(gguf, kernels, quantise)
    assert result.divergence == 0
    assert result.agreement == 1
    assert result.perplexity == result.other_perplexity


@pytest.mark.defaults
def test_eight_bits_lose_little(gguf: Path, kernels: Library) -> None:
    result = compared(gguf, kernels, Quantise.INT8)
    assert result.other_perplexity is not None
    assert result.agreement is not None
    assert result.perplexity < 1.015 * result.other_perplexity
    assert result.agreement > 0.95


@pytest.mark.defaults
def test_fingerprints_tell_precisions_apart(gguf: Path, kernels: Library) -> None:
    prints = {each: loaded(gguf, kernels, each).fingerprint for each in (None, *Quantise)}
    assert prints[Quantise.KEEP] == prints[None]  # the same bits
    assert len(set(prints.values())) == len(prints) - 1


@pytest.mark.parametrize("quantise", [Quantise.INT8, Quantise.INT4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_is_the_same_alone_in_pieces_and_among_others(
    kernels: Library, quantise: Quantise, dtype: torch.dtype
) -> None:
    assert keeps_its_bits(dtype, Scores.PLAIN, kernels, quantise)


@pytest.mark.defaults
def test_without_kernels_quantised_weights_are_refused(gguf: Path) -> None:
    with pytest.raises(UnsupportedModel, match="only our own kernels compute with int8 weights"):
        load(gguf, device=CPU, dtype=torch.bfloat16, quantise=Quantise.INT8)


@pytest.mark.parametrize("start", [[], [7]])
@pytest.mark.parametrize("stride", [1, 6, 14])
def test_windows_tell_every_token_once(start: list[int], stride: int) -> None:
    tokens = list(range(100, 150))
    windows = continuing(tokens, size=16, stride=stride, start=start)
    told = [window.tokens[place] for window in windows for place in window.places]
    assert told == tokens[0 if start else 1 :]
    assert all(len(window.tokens) <= 16 for window in windows)
    assert all(list(window.tokens[: len(start)]) == start for window in windows)
    assert all(window.places[0] >= 16 - stride for window in windows[1:])
    begins = [window.tokens[len(start)] for window in windows]
    assert all(later - earlier == stride for earlier, later in pairwise(begins))


@pytest.mark.parametrize(("start", "stride"), [([], 0), ([], 16), ([7], 15), ([7], -1)])
def test_windows_that_would_not_overlap_or_not_move_on_are_refused(start: list[int], stride: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be {stride} apart"):
        continuing(list(range(50)), size=16, stride=stride, start=start)


def test_an_evaluation_of_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="too short"):
        evaluate([], [], lambda _: iter(()))

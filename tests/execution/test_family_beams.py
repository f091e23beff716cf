"""Every family that generates searches as transformers does: one beam search of each configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.loading import LoadedDecoder, load
from models.loading_seq2seq import LoadedSeq2Seq
from models.positions import DynamicScaling
from server.request import Beams, Sampling
from server.scheduling.sequence import Sequence
from tests.execution.test_beam_parity import CPU, Pair
from tests.models import seq2seq_configs, test_decoder_parity, test_seq2seq_parity
from tests.models.parity import report

CONFIGS = {**test_decoder_parity.CONFIGS, **seq2seq_configs.CONFIGS}
WIDTH, NEW, PROMPT = 3, 8, 11


def tiny(name: str, folder: Path) -> Pair:
    if name in seq2seq_configs.CONFIGS:
        oracle = test_seq2seq_parity.make_oracle(CONFIGS[name]())
        oracle.save_pretrained(folder)
    else:
        oracle = test_decoder_parity.make_oracle(CONFIGS[name](), folder)
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder | LoadedSeq2Seq)
    return Pair(name, oracle, loaded)


def grows(pair: Pair) -> bool:
    """Whether the base of its rotary positions does, within the texts that are searched."""
    if not isinstance(pair.loaded, LoadedDecoder):
        return False
    scalings = [rotary.scaling for rotary in pair.loaded.config.rotaries]
    return any(isinstance(one, DynamicScaling) and one.original_context < PROMPT + NEW for one in scalings)


def searched(pair: Pair, prompt: list[int]) -> list[int]:
    loaded = pair.loaded
    sequence = Sequence(
        id=1,
        tokens=[loaded.config.start] if isinstance(loaded, LoadedSeq2Seq) else list(prompt),
        source=tuple(prompt) if pair.sources else (),
        max_new_tokens=NEW,
        sampling=Sampling(temperature=0.0),
        beams=Beams(width=WIDTH),
    )
    return pair.said(sequence)


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_a_search_finds_what_transformers_finds(name: str, tmp_path: Path) -> None:
    pair = tiny(name, tmp_path)
    if grows(pair):
        pytest.skip("transformers turns a whole text anew once it is longer than the original context")
    prompt = torch.randint(3, 90, (PROMPT,), generator=torch.Generator().manual_seed(1)).tolist()
    # Without a cache: transformers' is too small for a T5 with more decoder than encoder blocks.
    options = {
        "use_cache": not pair.sources,
        "eos_token_id": None,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
    }
    expected = pair.expected(prompt, num_beams=WIDTH, max_new_tokens=NEW, length_penalty=1.0, **options)
    found = searched(pair, prompt)
    family, _, config = name.partition(", ")
    report(family, config, "beam search", float(found != expected))
    assert found == expected

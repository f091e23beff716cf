"""Every decoder family computes what `transformers` computes, from the files that it saves.

The same four checks for every configuration of the tables; a family only adds entries to one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from models.loading import LoadedDecoder, load
from models.positions import DynamicScaling
from tests.models import decoder_configs_a, decoder_configs_b
from tests.models.paged import CPU, Session
from tests.models.parity import report

CONFIGS = {**decoder_configs_a.CONFIGS, **decoder_configs_b.CONFIGS}


@dataclass(frozen=True, slots=True)
class Pair:
    """A model of random weights as the oracle has it, and as we load it from its files."""

    oracle: Any
    loaded: LoadedDecoder
    family: str
    config: str

    def open_session(self, *, block_size: int = 16) -> Session:
        return Session(self.loaded.decoder, self.loaded.config, block_size=block_size)

    @torch.inference_mode()
    def expected_logits(self, tokens: list[int]) -> Tensor:
        """[tokens, vocab] of a text that is computed at once, where that gives what generating it gives."""
        rotaries = self.loaded.config.rotaries
        if any(isinstance(rotary.scaling, DynamicScaling) for rotary in rotaries):
            return self._generated_logits(tokens)
        logits: Tensor = self.oracle(torch.tensor([tokens])).logits[0]
        return logits

    def _generated_logits(self, tokens: list[int]) -> Tensor:
        """The same, token by token."""
        rows, cache = [], None
        for token in tokens:
            output = self.oracle(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            rows.append(output.logits[0])
        return torch.cat(rows)

    def check(self, name: str, error: float, *, limit: float) -> None:
        report(self.family, self.config, name, error)
        assert error <= limit


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # quickest for small tensors
    family, _, config = str(request.param).partition(", ")
    folder = tmp_path_factory.mktemp("model")
    oracle = make_oracle(CONFIGS[request.param](), folder)
    loaded = load(folder, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    yield Pair(oracle, loaded, family, config)
    torch.set_num_threads(threads)


def make_oracle(config: Any, folder: Path) -> Any:
    """Saved to `folder`. Eager attention: the fused one leaves out what it does not know (caps on scores)."""
    torch.manual_seed(0)
    kind = "sdpa" if getattr(config, "alibi", False) else "eager"  # Falcon's eager attention adds ALiBi twice
    oracle = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=kind).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():  # biases and norms too, which start as 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle.save_pretrained(folder)
    return oracle


def tokens_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(2, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def largest(difference: Tensor) -> float:
    return float(difference.abs().max())


def test_logits_are_those_of_the_reference(pair: Pair) -> None:
    texts = {"a": tokens_of(45), "b": tokens_of(1, 1), "c": tokens_of(150, 2)}
    together = pair.open_session().step(texts.items())
    errors = [
        largest(logits - pair.expected_logits(text))
        for text, logits in zip(texts.values(), together, strict=True)
    ]
    pair.check("logits", max(errors), limit=1e-4)


def test_greedy_tokens_are_those_of_the_reference(pair: Pair) -> None:
    prompt = tokens_of(11)
    ours = pair.open_session(block_size=4).greedy("text", prompt, 20)
    expected = pair.expected_logits(prompt + ours)[len(prompt) - 1 : -1].argmax(-1).tolist()
    pair.check("greedy", sum(a != b for a, b in zip(ours, expected, strict=True)), limit=0)


def test_a_prompt_in_chunks_gives_what_it_gives_at_once(pair: Pair) -> None:
    text = tokens_of(150, 3)
    (whole,) = pair.open_session().step([("text", text)])
    session = pair.open_session(block_size=4)
    cuts = [0, 1, 3, 40, 41, 110, 150]
    parts = [session.step([("text", text[a:b])])[0] for a, b in pairwise(cuts)]
    pair.check("chunks", largest(torch.cat(parts) - whole), limit=1e-5)


def test_parameters_are_counted_once(pair: Pair) -> None:
    expected = sum(parameter.numel() for parameter in pair.oracle.parameters())
    pair.check("parameters", abs(pair.loaded.parameters - expected), limit=0)


def test_shards_load_as_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CONFIGS["llama, grouped queries"]()
    oracle = transformers.AutoModelForCausalLM.from_config(config).eval()
    oracle.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load(tmp_path, device=CPU, dtype=torch.float32)
    assert isinstance(loaded, LoadedDecoder)
    pair = Pair(oracle, loaded, "llama", "shards")
    (logits,) = pair.open_session().step([("text", tokens_of(9))])
    pair.check("logits", largest(logits - pair.expected_logits(tokens_of(9))), limit=1e-4)

"""An encoder-decoder's steps: new sources are one batch of the encoder, and each row hears its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.kv_cache import KVCache
from models.seq2seq import Seq2Seq
from server.execution.generation import DecoderRunner
from server.request import Sampling
from server.scheduling.plan import DecodeStep, Slice
from server.scheduling.sequence import Sequence
from tests.execution.test_generation import CPU
from tests.execution.tiny_t5 import CONFIG, build


@pytest.fixture(scope="module")
def model() -> Seq2Seq:
    return build(torch.float32)


def sequence(id_: int, source: list[int], blocks: list[int], memory: list[int]) -> Sequence:
    one = Sequence(
        id=id_,
        tokens=[id_, 2],
        source=tuple(source),
        max_new_tokens=4,
        sampling=Sampling(temperature=0.0),
        prompt_alternatives=0,
    )
    one.blocks, one.memory = blocks, memory
    return one


def run(model: Seq2Seq, *sequences: Sequence) -> list[list[float]]:
    """Log-probabilities of what each says in two steps."""
    cache = KVCache(CONFIG.decoder, num_blocks=16, block_size=4, device=CPU, dtype=torch.float32)
    runner, said = DecoderRunner(model, cache, CPU), dict[int, list[float]]()
    for encodes in (True, False):
        slices = tuple(Slice(one, one.computed, one.pending, encodes=encodes) for one in sequences)
        with torch.inference_mode():
            results = runner.run(DecodeStep(model="m", slices=slices))
        for one in sequences:
            (scored,) = results.sampled[one.id].tokens
            said.setdefault(one.id, []).extend(s.logprob for s in results.prompt.get(one.id, ()))
            said[one.id].append(scored.logprob)
            one.scored, one.computed = 1, len(one.tokens)
            one.tokens.append(scored.token)
    return list(said.values())


def test_sources_that_come_together_are_one_pass_of_the_encoder(
    model: Seq2Seq, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = list[list[int]](), model.encode

    def count(tokens: Tensor, lengths: list[int], tables: list[list[int]], cache: KVCache) -> None:
        encoded.append(lengths)
        encode(tokens, lengths, tables, cache)

    monkeypatch.setattr(model, "encode", count)
    run(
        model,
        sequence(1, [3, 4, 5], [0], [1]),
        sequence(2, [6], [2], [3]),
        sequence(3, [7] * 9, [4], [5, 6, 7]),
    )
    assert encoded == [[3, 1, 9]]


def test_each_hears_its_own_source(model: Seq2Seq) -> None:
    def pair() -> tuple[Sequence, Sequence]:
        return sequence(1, [3, 4, 5, 6, 7], [0], [9, 2]), sequence(2, [8, 9], [4], [1])

    together = run(model, *pair())
    assert together == [run(model, one)[0] for one in pair()]
    others = run(model, sequence(1, [3, 4, 5, 6, 8], [0], [9, 2]), sequence(2, [8, 9], [4], [1]))
    assert others[1] == together[1]
    assert all(abs(this - that) > 1e-6 for this, that in zip(others[0], together[0], strict=True))

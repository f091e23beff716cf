"""Us, without HTTP: loaded as `triptych serve` would with the same flags, and run the way its engine runs.

python -m tests.benchmarks.peers.workers.ours TASK
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch

from models.loading import LoadedEncoder
from server import settings
from server.execution.runner import Runner
from server.hosting import Member, load_all
from server.model_setups import bring
from server.request import Sampling
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from tests.benchmarks.peers.workers.measuring import Prompts, measure_decoder, measure_encoder
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    member = load(task.model, ("--threads", str(task.threads), *task.flags))
    if isinstance(member.weights, LoadedEncoder):
        with torch.inference_mode():
            measure_encoder(_encoding(member.weights, task), task)
    else:
        measure_decoder(_decoding(member), task)


def load(model: str, flags: tuple[str, ...]) -> Member:
    """The one model, as `triptych serve --model MODEL FLAGS` has it."""
    parser = argparse.ArgumentParser(prog="triptych serve")
    settings.add_flags(parser)
    chosen = settings.read(vars(parser.parse_args(["--model", model, *flags])), environment={})
    (member,) = load_all(bring(chosen))
    return member


def _decoding(member: Member) -> Callable[[Prompts, int], None]:
    name, ids = member.card.name, itertools.count()
    scheduler, runner = Scheduler({name: member.lane}), Runner({name: member.runner})

    def generate(prompts: Prompts, tokens: int) -> None:
        sequences = [
            Sequence(id=next(ids), tokens=prompt, max_new_tokens=tokens, sampling=Sampling(temperature=0.0))
            for prompt in prompts
        ]
        for sequence in sequences:
            scheduler.generate(name, sequence)
        while (step := scheduler.next_step()) is not None:
            started = time.perf_counter()
            results = runner.run(step)
            scheduler.apply(step, results, time.perf_counter() - started)
        assert all(sequence.generated == tokens for sequence in sequences)

    return generate


def _encoding(weights: LoadedEncoder, task: Task) -> Callable[[Prompts], Callable[[], object]]:
    def prepare(texts: Prompts) -> Callable[[], object]:
        tokens = torch.tensor([token for text in texts for token in text])
        lengths, rows = [len(text) for text in texts], torch.arange(len(tokens))
        if not task.full_logits:
            return lambda: weights.sentence(weights.encoder(tokens, lengths), lengths)
        assert weights.masked_lm is not None, f"{task.model} has no masked-LM head"
        scores = weights.masked_lm
        return lambda: scores(tokens, lengths, rows)

    return prepare


if __name__ == "__main__":
    main(Task.read())

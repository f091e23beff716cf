"""How often a masked-LM adapter is right: hides 15 % of the tokens of held-out text and asks for them back.

Every hidden token is replaced by [MASK]; windows have up to 128 tokens; the seed is fixed, so two adapters
are asked the same. Prints a line for each origin (a file of TEXT), one for all origins that no training text
comes from, taken together, and the first five answers to some sentences.

    python -m models.defaults.training.evaluate_masked_lm BASE ADAPTER TEXT --record evaluation.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from models.defaults.training.masking import (
    Batch,
    Ids,
    Special,
    batches_of,
    hide,
    open_tokenizer,
    read_documents,
    windows_of,
)
from models.defaults.training.prepare_text import TRAIN
from models.heads import MaskedLM
from models.loading import LoadedEncoder, load

TRAINED_ON = frozenset(origin.name for origin in TRAIN)
SEED = 0
HIDDEN = 0.15
SENTENCES = (
    "Paris is the [MASK] of France.",
    "The [MASK] barked at the cat.",
    "She drank a cup of [MASK].",
    "The sun rises in the [MASK].",
    "He is the [MASK] of the United States.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of `hidden` tokens, the share that was the first answer, and among the first five."""

    origin: str
    hidden: int
    top_1: float
    top_5: float

    def __str__(self) -> str:
        return f"{self.origin:24} top-1 {self.top_1:6.1%}  top-5 {self.top_5:6.1%}  of {self.hidden}"


def score(model: MaskedLM, origin: str, documents: Sequence[Ids], special: Special, most: int) -> Score:
    """Ask until about `most` tokens have been asked for, in windows drawn from all over the documents."""
    draw = np.random.default_rng(SEED)
    windows = [window for document in documents for window in windows_of(document)]
    order = draw.permutation(len(windows))
    hidden = first = among_five = 0
    for batch in batches_of((windows[index] for index in order), 4096):
        found = _places(model, hide(batch, HIDDEN, special, draw))
        hidden += len(found)
        first += int((found == 0).sum())
        among_five += int((found < 5).sum())
        if hidden >= most:
            break
    return Score(origin=origin, hidden=hidden, top_1=first / hidden, top_5=among_five / hidden)


def pooled(scores: Sequence[Score]) -> Score:
    """All their hidden tokens as one: an origin that was asked for more counts for more."""
    hidden = sum(each.hidden for each in scores)
    return Score(
        origin="foreign origins, pooled",
        hidden=hidden,
        top_1=sum(each.top_1 * each.hidden for each in scores) / hidden,
        top_5=sum(each.top_5 * each.hidden for each in scores) / hidden,
    )


@torch.inference_mode()
def _places(model: MaskedLM, batch: Batch) -> torch.Tensor:
    """How many tokens were thought likelier than the right one: [R]."""
    logits = model(batch.tokens, batch.lengths, batch.rows)
    right = logits.gather(1, batch.labels[:, None])
    return (logits > right).sum(dim=1)


@torch.inference_mode()
def first_five(model: MaskedLM, tokenizer: Tokenizer, sentence: str) -> list[str]:
    ids = tokenizer.encode(sentence).ids
    row = ids.index(tokenizer.get_vocab()["[MASK]"])
    logits = model(torch.tensor(ids), [len(ids)], torch.tensor([row]))
    return [tokenizer.id_to_token(index) or "" for index in logits[0].topk(5).indices.tolist()]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base", type=Path, help="folder of the encoder")
    parser.add_argument("adapter", type=Path, help="folder of the adapter")
    parser.add_argument("text", type=Path, help="folder of held-out *.txt, one document a line")
    parser.add_argument("--most", type=int, default=20_000, help="hidden tokens of each origin")
    parser.add_argument("--record", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    if not any(options.text.glob("*.txt")):
        parser.error(f"no *.txt in {options.text}")
    return options


def score_all(model: MaskedLM, tokenizer: Tokenizer, text: Path, most: int) -> Iterator[Score]:
    """A score for each file of the folder, named as the file is."""
    for path in sorted(text.glob("*.txt")):
        yield score(model, path.stem, read_documents(path, tokenizer), Special.of(tokenizer), most)


def main() -> None:
    options = read_options()
    tokenizer = open_tokenizer(options.base)
    loaded = load(options.base, device=torch.device("cpu"), dtype=torch.float32, adapter=options.adapter)
    if not isinstance(loaded, LoadedEncoder) or loaded.masked_lm is None:
        raise SystemExit(f"{options.base} is not an encoder")
    answers = {sentence: first_five(loaded.masked_lm, tokenizer, sentence) for sentence in SENTENCES}
    for sentence, words in answers.items():
        print(f"{sentence:40} {', '.join(words)}")
    scores = []
    for each in score_all(loaded.masked_lm, tokenizer, options.text, options.most):
        scores.append(each)
        print(each, flush=True)
    record: dict[str, object] = {"scores": [asdict(each) for each in scores]}
    if foreign := [each for each in scores if each.origin not in TRAINED_ON]:
        print(pooled(foreign))
        record["foreign"] = asdict(pooled(foreign))
    record["first_five"] = answers
    if options.record:
        options.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

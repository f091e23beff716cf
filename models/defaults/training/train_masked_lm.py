"""Trains a masked-LM adapter: low-rank changes of an encoder's linear layers, and a head.

The encoder itself stays as it is. Training lasts as long as it is told to: the learning rate falls with the
clock, so the result is ready on time on a busy machine too. A run that was cut off goes on from its last
checkpoint.

    python -m models.defaults.training.train_masked_lm BASE TEXT ADAPTER --minutes 90

BASE is the encoder's folder, TEXT one of `*.txt` files with a document a line, ADAPTER what is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from models.adapter import CONFIG, WEIGHTS
from models.defaults.training.masking import (
    Ids,
    Special,
    batches_of,
    hide,
    open_tokenizer,
    read_documents,
    windows_of,
)
from models.encoder import Encoder
from models.heads import MaskedLM, MaskedLMHead
from models.loading import LoadedEncoder, load

WARM_UP_STEPS = 40
LAST_RATE = 0.01  # of the peak
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    rank: int
    peak_rate: float
    minutes: float
    tokens_per_step: int
    tokens_per_origin: int  # at most, in an epoch: no origin drowns the others
    at_most: Mapping[str, int]  # the same, for single origins
    masked: float
    seed: int


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a run stands; what a checkpoint must keep beside tensors."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # within the epoch
    seconds: float = 0.0


class LowRankChange(nn.Module):
    """``W + B A`` in place of W, A [rank, in], B [out, rank]. B starts at zero: nothing has changed yet."""

    def __init__(self, out_features: int, in_features: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def adapt(encoder: Encoder, rank: int) -> dict[str, nn.Parameter]:
    """Put a low-rank change on every linear layer. Returns its parts, named as in the adapter file."""
    parameters: dict[str, nn.Parameter] = {}
    for path, layer in list(encoder.named_modules()):
        if isinstance(layer, nn.Linear):
            change = LowRankChange(layer.out_features, layer.in_features, rank)
            parametrize.register_parametrization(layer, "weight", change)
            parameters |= {f"{path}.lora_a": change.a, f"{path}.lora_b": change.b}
    return parameters


def new_head(loaded: LoadedEncoder, unigrams: Tensor) -> MaskedLMHead:
    """A head that begins by knowing how frequent each token is: unigrams [vocab], counts."""
    head = MaskedLMHead(loaded.config, loaded.encoder.embeddings.words)
    assert head.transform is not None
    assert head.bias is not None  # a BERT's head has both
    nn.init.eye_(head.transform.weight)
    nn.init.zeros_(head.transform.bias)
    with torch.no_grad():
        head.bias.copy_(((unigrams + 0.5) / unigrams.sum()).log())
    return head


@dataclass(frozen=True, slots=True)
class Text:
    """Documents by origin, one origin a file."""

    origins: Mapping[str, Sequence[Ids]]

    def unigrams(self, vocab_size: int) -> Tensor:
        counts = np.zeros(vocab_size, dtype=np.int64)
        for documents in self.origins.values():
            counts += np.bincount(np.concatenate(documents), minlength=vocab_size)
        return torch.from_numpy(counts).double()

    def epoch(self, number: int, recipe: Recipe) -> list[list[Ids]]:
        """The batches of one pass: cut and ordered anew in each, but the same whenever they are asked for."""
        draw = np.random.default_rng((recipe.seed, number))
        windows: list[Ids] = []
        for name, documents in self.origins.items():
            windows += _some(documents, recipe.at_most.get(name, recipe.tokens_per_origin), draw)
        order = draw.permutation(len(windows))
        return list(batches_of((windows[index] for index in order), recipe.tokens_per_step))


def _some(documents: Sequence[Ids], most: int, draw: np.random.Generator) -> Iterator[Ids]:
    taken = 0
    for index in draw.permutation(len(documents)):
        for window in windows_of(documents[index], draw):
            yield window
            taken += len(window)
        if taken >= most:
            return


class Run:
    """A model in training: steps forward, and goes to and comes back from a checkpoint."""

    def __init__(self, loaded: LoadedEncoder, text: Text, special: Special, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        loaded.encoder.requires_grad_(False)
        head = new_head(loaded, text.unigrams(loaded.config.vocab_size))
        self.parameters = adapt(loaded.encoder, recipe.rank)
        own = {name: tensor for name, tensor in head.named_parameters() if name != "words.weight"}
        self.parameters |= {f"head.{name}": tensor for name, tensor in own.items()}
        self.progress = Progress()
        self._model = MaskedLM(loaded.encoder, head)
        self._text, self._special, self._recipe = text, special, recipe
        self._optimizer = torch.optim.AdamW(self.parameters.values(), betas=(0.9, 0.98), weight_decay=0.01)

    @property
    def finished(self) -> bool:
        return self.progress.seconds >= self._recipe.minutes * 60

    def steps(self) -> Iterator[float]:
        """Train until the time is over, or the iterator is closed; the loss of each step."""
        while not self.finished:
            batches = self._text.epoch(self.progress.epoch, self._recipe)
            while self.progress.batch < len(batches) and not self.finished:
                started = time.monotonic()
                loss = self._step(batches[self.progress.batch])
                self.progress.step += 1
                self.progress.batch += 1
                self.progress.seconds += time.monotonic() - started
                yield loss
            if self.progress.batch >= len(batches):
                self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def _step(self, windows: list[Ids]) -> float:
        draw = np.random.default_rng((self._recipe.seed, self.progress.epoch, self.progress.batch))
        batch = hide(windows, self._recipe.masked, self._special, draw)
        # Flash attention is made for long texts: on windows this short, its backward pass is slower.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            logits = self._model(batch.tokens, batch.lengths, batch.rows)
        loss = F.cross_entropy(logits, batch.labels)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.step()
        return loss.item()

    def _rate(self) -> float:
        """Up over the first steps, then down in a straight line with the time that is left."""
        left = max(1 - self.progress.seconds / (self._recipe.minutes * 60), LAST_RATE)
        return self._recipe.peak_rate * min(left, (self.progress.step + 1) / WARM_UP_STEPS)

    def save_checkpoint(self, path: Path) -> None:
        tensors = {name: tensor.detach() for name, tensor in self.parameters.items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        progress = self.progress
        place = [progress.step, progress.epoch, progress.batch, progress.seconds]
        tensors["progress"] = torch.tensor(place, dtype=torch.float64)
        save_file(tensors, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load_checkpoint(self, path: Path) -> None:
        tensors = load_file(path)
        step, epoch, batch, seconds = tensors.pop("progress").tolist()
        self.progress = Progress(step=int(step), epoch=int(epoch), batch=int(batch), seconds=seconds)
        state: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(self.parameters))}
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            _, index, key = name.split(".")
            state[int(index)][key] = tensors.pop(name)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])


def write_adapter(folder: Path, base: Path, parameters: Mapping[str, Tensor], recipe: Recipe) -> None:
    """The files that `models.adapter.read_adapter` reads. Half precision: enough, and half the download."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in parameters.items()}
    save_file(tensors, folder / WEIGHTS)
    config = {
        "base_sha256": hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest(),
        "rank": recipe.rank,
        "alpha": recipe.rank,
        "targets": sorted({name.rpartition(".")[0] for name in tensors if name.endswith(".lora_a")}),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def limit(argument: str) -> tuple[str, int]:
    """`foldoc=200000` as a name and a number."""
    name, _, tokens = argument.partition("=")
    if not tokens.isdecimal():
        raise argparse.ArgumentTypeError(f"{argument!r} is not ORIGIN=TOKENS")
    return name, int(tokens)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, help="folder of the encoder")
    parser.add_argument("text", type=Path, help="folder of *.txt, one document a line")
    parser.add_argument("adapter", type=Path, help="folder to write")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--peak-rate", type=float, default=2e-3)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--tokens-per-origin", type=int, default=1_500_000, help="at most, in an epoch")
    parser.add_argument(
        "--at-most", type=limit, nargs="*", default=[], metavar="ORIGIN=TOKENS", help="for one origin"
    )
    parser.add_argument("--masked", type=float, default=0.2, help="share of the tokens that is hidden")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS")
    options = parser.parse_args()
    options.at_most = dict(options.at_most)
    origins = {path.stem for path in options.text.glob("*.txt")}
    if not origins:
        parser.error(f"no *.txt in {options.text}")
    if unknown := options.at_most.keys() - origins:
        parser.error(f"--at-most: {options.text} has no {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    recipe = Recipe(**{name: getattr(options, name) for name in Recipe.__dataclass_fields__})
    tokenizer = open_tokenizer(options.base)
    files = sorted(options.text.glob("*.txt"))
    text = Text({path.stem: read_documents(path, tokenizer) for path in files})
    loaded = load(options.base, device=torch.device("cpu"), dtype=torch.float32, packed=False)
    if not isinstance(loaded, LoadedEncoder):
        raise SystemExit(f"{options.base} is not an encoder")
    run = Run(loaded, text, Special.of(tokenizer), recipe)
    checkpoint = options.adapter / CHECKPOINT
    options.adapter.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        run.load_checkpoint(checkpoint)
    losses = []
    for loss in run.steps():
        losses.append(loss)
        if run.progress.step % options.save_every == 0:
            minutes, mean = run.progress.seconds / 60, sum(losses) / len(losses)
            print(f"step {run.progress.step}, {minutes:.1f} min: loss {mean:.3f}", flush=True)
            run.save_checkpoint(checkpoint)
            losses.clear()
    write_adapter(options.adapter, options.base, run.parameters, recipe)


if __name__ == "__main__":
    main()

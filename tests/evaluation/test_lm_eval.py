"""lm-eval scores the server as it scores transformers on the same weights. The README here says more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from models.errors import SourceUnreachable
from models.weights.sources import SMOLLM2, resolve
from server.settings import Settings
from server.text.gguf import read_gguf
from tests.test_end_to_end import Server

pytestmark = [
    pytest.mark.lm_eval,
    pytest.mark.defaults,
    pytest.mark.skipif(
        not (find_spec("lm_eval") and find_spec("accelerate") and find_spec("tenacity")),
        reason="lm_eval[api,hf] is not installed",
    ),
    pytest.mark.timeout(1800),
]

TASKS = ("endings", "facts", "passages")
TOLERANCE = 1e-3  # of a log-likelihood: sums of up to 50 tokens', each rounded in another order
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """`metrics` by task and name; of each item the log-likelihoods, and whether greedy decoding says it."""

    metrics: dict[tuple[str, str], float]
    likelihoods: dict[tuple[str, int], list[float]]
    greedy: dict[tuple[str, int], list[bool]]

    def of(self, tasks: Sequence[str]) -> Scores:
        return Scores(
            metrics={key: value for key, value in self.metrics.items() if key[0] in tasks},
            likelihoods={key: value for key, value in self.likelihoods.items() if key[0] in tasks},
            greedy={key: value for key, value in self.greedy.items() if key[0] in tasks},
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as transformers reads its GGUF file, saved as a folder that lm-eval can name."""
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        file = resolve(SMOLLM2.name, cache=Settings().cache)
    except SourceUnreachable as error:
        pytest.skip(str(error))
    _oracle(file).save_pretrained(folder)
    vocabulary = read_gguf(file)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.backend,
        bos_token=vocabulary.names["bos_token"],
        eos_token=vocabulary.names["eos_token"],
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    return folder


def _oracle(file: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    oracle = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_gguf_checkpoint(file, return_tensors=True, model_to_load=oracle)["tensors"]
    missing, unexpected = oracle.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied: the very tensor of the embeddings
    return oracle


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("--dtype", "float32")
    try:
        server.wait_until_ready()
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return evaluate("hf", {"pretrained": folder, "dtype": "float32"}, TASKS, tmp_path_factory.mktemp("hf"))


def evaluate(model: str, arguments: dict[str, object], tasks: Sequence[str], out: Path) -> Scores:
    """Run lm-eval as its users do, in a process of its own."""
    flags = {
        "--model": model,
        "--model_args": ",".join(f"{name}={value}" for name, value in arguments.items()),
        "--include_path": ".",
        "--tasks": ",".join(tasks),
        "--device": "cpu",
        "--output_path": str(out),
    }
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "lm_eval",
            "--log_samples",
            *(each for pair in flags.items() for each in pair),
        ],
        cwd=Path(__file__).parent,
        env=os.environ | OFFLINE | {"HF_HOME": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return _read(out)


def _read(out: Path) -> Scores:
    (results,) = out.glob("*/results_*.json")
    metrics = {
        (task, name): value
        for task, found in json.loads(results.read_text())["results"].items()
        for name, value in found.items()
        if name.endswith(",none") and "stderr" not in name
    }
    likelihoods, greedy = dict[tuple[str, int], list[float]](), dict[tuple[str, int], list[bool]]()
    for file in out.glob("*/samples_*.jsonl"):
        task = file.name.split("_")[1]
        for sample in map(json.loads, file.read_text().splitlines()):
            answers = sample["filtered_resps"]  # a rolling one is a number, the others are pairs
            pairs = [each if isinstance(each, list) else [each, "False"] for each in answers]
            likelihoods[task, sample["doc_id"]] = [float(value) for value, _ in pairs]
            greedy[task, sample["doc_id"]] = [flag == "True" for _, flag in pairs]
    return Scores(metrics=metrics, likelihoods=likelihoods, greedy=greedy)


def local_completions(server: Server, folder: Path, **more: object) -> dict[str, object]:
    return {
        "base_url": f"{server.url}/v1/completions",
        "model": SMOLLM2.name,
        "tokenizer": folder,
        "tokenizer_backend": "huggingface",
        "num_concurrent": 8,
    } | more


def assert_equal(found: Scores, expected: Scores) -> None:
    """Accuracies to the last item; what is computed from log-likelihoods, within the tolerance."""
    assert found.greedy == expected.greedy
    assert found.likelihoods.keys() == expected.likelihoods.keys()
    for item, values in expected.likelihoods.items():
        assert found.likelihoods[item] == pytest.approx(values, abs=TOLERANCE), item
    assert found.metrics.keys() == expected.metrics.keys()
    for metric, value in expected.metrics.items():
        exact = metric[1].startswith("acc")
        assert found.metrics[metric] == (value if exact else pytest.approx(value, rel=TOLERANCE)), metric


def test_token_ids_score_as_in_transformers(
    server: Server, folder: Path, expected: Scores, tmp_path: Path
) -> None:
    assert len(expected.likelihoods) == 16 + 24 + 4
    found = evaluate("local-completions", local_completions(server, folder), TASKS, tmp_path)
    assert_equal(found, expected)


def test_strings_score_as_in_transformers(
    server: Server, folder: Path, expected: Scores, tmp_path: Path
) -> None:
    tasks = ("endings", "passages")
    arguments = local_completions(server, folder, tokenized_requests=False)
    assert_equal(evaluate("local-completions", arguments, tasks, tmp_path), expected.of(tasks))

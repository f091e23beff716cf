"""`triptych eval` on small models of every kind, on files that are none, and with flags that do not fit."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from models.native.library import Library
from server.cli import main

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "that", "dog", "run", "far", "away", "home"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {word: id_ for id_, word in enumerate([*SPECIAL, *WORDS])}
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
TEXT = " ".join(WORDS * 6)
TOKENS = 6 * len(WORDS)

Evaluate = Callable[..., dict[str, Any]]
Complain = Callable[..., str]


def save(folder: Path, model: Any) -> Path:
    """With a tokenizer of whole words, whose begin, mask and ends are BERT's."""
    model.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.decoder = tokenizers.decoders.WordPiece()
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="[CLS]", mask_token="[MASK]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    models = {
        "decoder": transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2)),
        "encoder": transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)),
        "sentences": transformers.BertModel(transformers.BertConfig(**SIZES)),
        "both": transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=len(VOCABULARY),
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
            )
        ),
    }
    return {name: save(tmp_path_factory.mktemp(name), model) for name, model in models.items()}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def evaluate(kernels: Library, text: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Runs the command on this machine's kernels; the object that it prints."""

    def run(model: Path, *flags: str) -> dict[str, Any]:
        threads = ["--threads", str(kernels.threads)]
        assert main(["eval", "--text", str(text), "--model", str(model), *threads, *flags, "--json"]) == 0
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return printed

    return run


@pytest.fixture
def complain(capsys: pytest.CaptureFixture[str]) -> Complain:
    """Runs the command, which is refused; what it says."""

    def run(*flags: str) -> str:
        try:
            status = main(["eval", *flags])
        except SystemExit as left:
            status = int(str(left.code))
        said = capsys.readouterr()
        assert (status, said.out) == (2, "")
        return said.err

    return run


def expected_perplexity(folder: Path, tokens: list[int], size: int, stride: int) -> float:
    """By transformers, in float32: each window begins with [CLS], and tells what no window before it has."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    nats, told = 0.0, 0
    for begin in range(0, len(tokens), stride):
        window = [2, *tokens[begin : begin + size - 1]]
        with torch.inference_mode():
            said = model(torch.tensor([window])).logits[0].log_softmax(-1)
        for place in range(max(1, told - begin + 1), len(window)):
            nats -= float(said[place - 1, window[place]])
            told += 1
        if told == len(tokens):
            return math.exp(nats / told)
    raise AssertionError("not all were told")


@pytest.mark.parametrize("stride", [1, 6, 14])
@pytest.mark.parametrize("kernels_named", ["auto", "torch"])
def test_a_decoder_tells_every_token_as_well_as_in_transformers(
    folders: dict[str, Path], evaluate: Evaluate, stride: int, kernels_named: str
) -> None:
    flags = ["--window", "16", "--stride", str(stride), "--dtype", "float32", "--kernels", kernels_named]
    report = evaluate(folders["decoder"], *flags)
    tokens = [VOCABULARY[word] for word in TEXT.split()]
    assert report["tokens"] == TOKENS
    expected = expected_perplexity(folders["decoder"], tokens, 16, stride)
    assert report["perplexity"] == pytest.approx(expected, rel=1e-4)


def test_an_encoder_tells_every_seventh_token(folders: dict[str, Path], evaluate: Evaluate) -> None:
    report = evaluate(folders["encoder"], "--window", "30", "--dtype", "float32")
    assert report["tokens"] == sum(len(range(3, min(28, TOKENS - at), 7)) for at in range(0, TOKENS, 28))
    assert 1 < report["perplexity"] < 2 * len(VOCABULARY)


def test_another_precision_is_compared_and_both_are_named(
    folders: dict[str, Path], evaluate: Evaluate, kernels: Library
) -> None:
    report = evaluate(folders["decoder"], "--dtype", "float32", "--quantize", "int8", "--against", "float32")
    assert (report["precision"], report["against"], report["kernels"]) == ("int8", "float32", kernels.name)
    assert report["perplexity"] == pytest.approx(report["other_perplexity"], rel=0.01)
    assert 0 < report["divergence"] < 0.01


def test_the_precision_that_was_chosen_is_printed(
    folders: dict[str, Path], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--text", str(text), "--model", str(folders["decoder"]), "--most", "20"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^precision +(bfloat16|float32)$", printed, re.MULTILINE)
    assert re.search(r"^tokens told +20$", printed, re.MULTILINE)


def test_a_text_in_bytes_that_are_no_utf_8_is_named(
    folders: dict[str, Path], tmp_path: Path, complain: Complain
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfd")
    flags = ["--model", str(folders["decoder"])]
    assert "bytes is no text in UTF-8" in complain("--text", str(tmp_path / "bytes"), *flags)
    assert "missing: No such file or directory" in complain("--text", str(tmp_path / "missing"), *flags)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_an_empty_text_has_nothing_to_tell(
    folders: dict[str, Path], tmp_path: Path, complain: Complain, kind: str
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    said = complain("--text", str(empty), "--model", str(folders[kind]))
    assert "the text is too short: there is no token to tell" in said


@pytest.mark.parametrize(
    ("kind", "flags", "complaint"),
    [
        ("decoder", ["--window", "33"], "--window is 33; this model takes 8 to 32 tokens"),
        ("decoder", ["--window", "7"], "--window is 7; this model takes 8 to 32 tokens"),
        (
            "decoder",
            ["--window", "16", "--stride", "15"],
            "--stride is 15; with this window it may be 1 to 14",
        ),
        ("decoder", ["--stride", "0"], "argument --stride: '0' is no whole number from 1 on"),
        ("decoder", ["--most", "-5"], "argument --most: '-5' is no whole number from 1 on"),
        ("encoder", ["--stride", "4"], "--stride is for decoders"),
        ("sentences", [], "the model neither continues a text nor fills masks"),
        ("both", [], "the model neither continues a text nor fills masks"),
        ("decoder", ["--quantize", "keep"], "only a .gguf file has blocks to keep"),
        ("decoder", ["--against", "keep"], "only a .gguf file has blocks to keep"),
        ("decoder", ["--kernels", "torch", "--quantize", "int8"], "--quantize int8 needs kernels of our own"),
        ("decoder", ["--model", "another"], "--model: eval takes one"),
    ],
)
def test_what_does_not_fit_is_named(
    kernels: Library,
    folders: dict[str, Path],
    text: Path,
    complain: Complain,
    kind: str,
    flags: list[str],
    complaint: str,
) -> None:
    assert complaint in complain("--text", str(text), "--model", str(folders[kind]), *flags)


def test_a_tokenizer_of_another_model_is_named(
    folders: dict[str, Path], text: Path, tmp_path: Path, complain: Complain
) -> None:
    """Its tokens would be looked up beyond the end of a table."""
    folder = tmp_path / "model"
    shutil.copytree(folders["decoder"], folder)
    small = transformers.LlamaConfig(**(SIZES | {"vocab_size": 12}), num_key_value_heads=2)
    transformers.LlamaForCausalLM(small).save_pretrained(folder)
    said = complain("--text", str(text), "--model", str(folder))
    assert "token 12 of the tokenizer is not among the 12 of the model" in said

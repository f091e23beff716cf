"""`triptych profile` and `triptych bench --offline`, with small models on this machine's kernels."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models.native import limits
from models.native.library import Library
from server.cli import main
from server.shell.measuring.timing import median_s, repeated

LLAMA = transformers.LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=False,
)
BERT = transformers.BertConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)
T5 = transformers.T5Config(
    vocab_size=96,
    d_model=64,
    d_kv=16,
    d_ff=96,
    num_layers=2,
    num_heads=4,
    decoder_start_token_id=0,
    n_positions=256,
)
QUICK = ["--seconds", "0.01"]
LLAMA_WEIGHTS = 2 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96) + 64 * 96

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    models = {
        "llama": transformers.LlamaForCausalLM(LLAMA),
        "bert": transformers.BertModel(BERT),
        "t5": transformers.T5ForConditionalGeneration(T5),
    }
    folders = {name: str(tmp_path_factory.mktemp(name)) for name in models}
    for name, model in models.items():
        model.save_pretrained(folders[name])
    return folders


@pytest.fixture(autouse=True)
def _quick_and_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's limits are measured as ever, but briefly."""
    monkeypatch.setattr(limits, "BEYOND_CACHES", 4 << 20)
    monkeypatch.setattr(limits, "_ROUNDS", 20_000)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(kernels: Library, tmp_path: Path) -> Run:
    """Runs a command on this machine's kernels; what it wrote as JSON."""

    def run(*typed: str) -> Any:
        file = tmp_path / "report.json"
        assert main([*typed, "--threads", str(kernels.threads), "--json", str(file)]) == 0
        return json.loads(file.read_text())

    return run


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that is refused; what it says."""

    def run(*typed: str) -> str:
        try:
            status = main([*typed])
        except SystemExit as left:
            status = int(str(left.code))
        assert status == 2
        return capsys.readouterr().err

    return run


# profile


def test_a_profile_adds_up(run: Run, folders: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    report = run("profile", folders["llama"], "--batches", "1,4", "--prompts", "200", *QUICK)
    names = [case["name"] for case in report["cases"]]
    assert names == ["decode, batch 1, context 128", "decode, batch 4, context 128", "prompt of 200"]
    for case in report["cases"]:
        parts = sum(operation["seconds"] for operation in case["operations"])
        assert parts + case["between_operations"] == pytest.approx(case["seconds"])
    printed = capsys.readouterr().out
    assert all(
        name in printed for name in (*names, "gate_up", "between operations", "of the bandwidth limit")
    )


def test_a_decode_step_reads_every_matrix_once_and_the_cache(run: Run, folders: dict[str, str]) -> None:
    report = run(
        "profile", folders["llama"], "--batches", "3", "--contexts", "20", "--dtype", "float32", *QUICK
    )
    operations = report["cases"][0]["operations"]
    cache = 3 * 20 * 2 * 2 * 2 * 16 * 4  # texts, tokens, layers, keys and values, heads, elements, bytes
    attended = sum(one["bytes"] for one in operations if one["name"] == "attend")
    assert attended == cache
    padded = sum(one["bytes"] for one in operations) - attended
    assert LLAMA_WEIGHTS * 4 <= padded <= 1.7 * LLAMA_WEIGHTS * 4


def test_quantised_weights_cost_fewer_bytes(run: Run, folders: dict[str, str]) -> None:
    wide, narrow = (
        run("profile", folders["llama"], "--batches", "1", "--contexts", "1", "--quantize", how, *QUICK)
        for how in ("none", "int8")
    )
    assert narrow["cases"][0]["bytes"] < 0.6 * wide["cases"][0]["bytes"] * (
        1.0 if wide["dtype"] == "bfloat16" else 0.5
    )
    assert narrow["quantize"] == "int8"


def test_an_encoder_is_profiled_by_texts_and_lengths(run: Run, folders: dict[str, str]) -> None:
    report = run("profile", folders["bert"], "--batches", "1,5", "--lengths", "7,64", *QUICK)
    shapes = [(1, 7), (1, 64), (5, 7), (5, 64)]
    assert [case["name"] for case in report["cases"]] == [f"texts {n}, length {m}" for n, m in shapes]
    by_name = {one["name"]: one for one in report["cases"][3]["operations"]}
    assert by_name["attend"]["arithmetic"] == 2 * 5 * 64 * 64 * 4 * 64  # layers, texts, pairs, sums, elements


def test_an_encoder_decoder_is_profiled_with_its_source(run: Run, folders: dict[str, str]) -> None:
    report = run("profile", folders["t5"], "--batches", "2", "--prompts", "40", *QUICK)
    decode, source = report["cases"]
    assert (decode["name"], source["name"]) == ("decode, batch 2, context 128, source 40", "source of 40")
    looks = [one["of"] for one in decode["operations"] if one["name"] == "attend"]
    assert looks == ["4 heads of 16", "4 heads of 16, to sources"]
    assert "kv" in {one["name"] for one in source["operations"]}


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("llama", ["--kernels", "torch"], "--kernels auto"),
        ("llama", ["--dtype", "float16"], "--dtype float32"),
        ("llama", ["--lengths", "3"], "--lengths: "),
        ("llama", ["--contexts", "257"], "--contexts 257: this model takes 256 tokens"),
        ("llama", ["--prompts", "8,300"], "--prompts 300: this model takes 256 tokens"),
        ("llama", ["--kv-memory", "8KB"], "--batches 1: "),
        ("llama", ["--batches", "1,0"], "argument --batches: '0' is no whole number"),
        ("llama", ["--batches", "x"], "argument --batches: 'x' is no whole number"),
        ("llama", ["--seconds", "nan"], "argument --seconds: 'nan'"),
        ("llama", ["--json", "/nowhere/at/all.json"], "argument --json: "),
        ("llama", ["--threads", "0"], "--threads must be"),
        ("bert", ["--contexts", "5"], "--contexts: "),
        ("bert", ["--prompts", "5"], "--prompts: "),
        ("bert", ["--lengths", "65"], "--lengths 65: this model takes 64 tokens"),
    ],
)
def test_a_profile_that_cannot_be_had_is_refused_by_name(
    complaint: Callable[..., str], folders: dict[str, str], model: str, flags: list[str], said: str
) -> None:
    assert said in complaint("profile", folders[model], *flags)


# bench --offline


def test_a_decoder_is_measured_without_a_server(
    run: Run, folders: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--batches", "1,9", "--tokens", "24", "--prompt", "200", "--dtype", "float32"]
    report = run("bench", "--offline", folders["llama"], *flags)
    one, nine = report["decode"]
    assert (one["batch"], nine["batch"]) == (1, 9)
    assert nine["tokens_per_s"] == pytest.approx(9 / nine["step"])
    assert one["of_bandwidth"] == pytest.approx(
        report["memory"]["weight_bytes"] / report["memory"]["bytes_per_s"] / one["step"]
    )
    assert nine["of_bandwidth"] is None
    assert report["prompt"]["tokens"] == 200
    assert report["prompt"]["tokens_per_s"] == pytest.approx(200 / report["prompt"]["first_token"])
    assert report["encode"] == []
    assert report["grid"] is None
    assert "of the bandwidth limit" in capsys.readouterr().out


def test_pytorch_is_measured_too(run: Run, folders: dict[str, str]) -> None:
    flags = ["--kernels", "torch", "--dtype", "float32", "--tokens", "16", "--batches", "1"]
    report = run("bench", "--offline", folders["llama"], *flags)
    norms = 5 * 64
    assert report["memory"]["weight_bytes"] == 4 * (LLAMA_WEIGHTS + norms)
    assert report["kernels"] == "torch"


def test_an_encoder_is_measured_in_texts(run: Run, folders: dict[str, str]) -> None:
    report = run("bench", folders["bert"], "--offline", "--batches", "1,3", "--lengths", "16")
    assert [(one["texts"], one["length"]) for one in report["encode"]] == [(1, 16), (3, 16)]
    assert all(one["texts_per_s"] == pytest.approx(one["texts"] / one["seconds"]) for one in report["encode"])
    assert report["memory"] is None
    assert report["decode"] == []


def test_an_encoder_decoder_reads_sources(run: Run, folders: dict[str, str]) -> None:
    report = run("bench", "--offline", folders["t5"], "--batches", "2", "--tokens", "16", "--prompt", "60")
    assert report["prompt"]["tokens"] == 60
    assert report["decode"][0]["step"] > 0.0


def test_the_grid_leaves_out_what_does_not_fit(
    run: Run, folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    shape = ["--grid", "--grid-batches", "1,4", "--grid-contexts", "16,256,512", "--grid-seconds", "0.001"]
    memory = 20 * 16 * 2 * 2 * 2 * 16 * 4  # 20 blocks: 4 texts of 256 tokens are 64
    quick = ["--batches", "1", "--tokens", "8", "--prompt", "16", "--dtype", "float32"]
    picture = tmp_path / "grid.png"
    report = run(
        "bench",
        "--offline",
        folders["llama"],
        *shape,
        *quick,
        "--kv-memory",
        str(memory),
        "--plot",
        str(picture),
    )
    assert [(one["batch"], one["context"]) for one in report["grid"]] == [(1, 16), (1, 256), (4, 16)]
    table = capsys.readouterr().out.split("ms a step, by batch and context\n")[1].splitlines()
    assert table[0].split() == ["16", "256", "512"]
    assert [line.split()[0] for line in table[1:]] == ["1", "4"]
    assert table[2].split()[2:] == ["-", "-"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("llama", ["--plot", "a.png"], "--plot is for --grid"),
        ("llama", ["--grid-batches", "1"], "--grid-batches is for --grid"),
        ("llama", ["--grid", "--plot", "a.txt"], "argument --plot: a.txt must end in one of"),
        ("llama", ["--lengths", "3"], "--lengths: "),
        ("llama", ["--prompt", "256"], "--prompt 256: this model takes 255 tokens"),
        ("llama", ["--prompt", "9", "--tokens", "230"], "--tokens 230: this model takes 224 tokens"),
        ("llama", ["--prompt", "9", "--tokens", "1"], "--tokens 1: "),
        ("llama", ["--kv-memory", "1KB"], "--kv-memory: 1000 bytes hold no block"),
        ("llama", ["--prompt", "9", "--kv-memory", "64KB"], "--batches 8: "),
        ("llama", ["--streams", "3"], "unrecognized arguments: --streams"),
        ("bert", ["--grid"], "--grid: "),
        ("bert", ["--tokens", "5"], "--tokens: "),
        ("bert", ["--lengths", "65"], "--lengths 65: this model takes 64 tokens"),
    ],
)
def test_a_measurement_that_cannot_be_had_is_refused_by_name(
    complaint: Callable[..., str], folders: dict[str, str], model: str, flags: list[str], said: str
) -> None:
    assert said in complaint("bench", "--offline", folders[model], *flags)


def test_several_models_are_one_too_many(
    complaint: Callable[..., str], folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_MODEL", "one two")
    assert "--model: one at a time" in complaint("bench", "--offline")


def test_without_matplotlib_a_picture_is_refused_before_anything_is_measured(
    complaint: Callable[..., str], folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = complaint("bench", "--offline", folders["llama"], "--grid", "--plot", "grid.png")
    assert "--plot needs matplotlib; type: pip install 'triptych-client[plot]'" in said


def test_without_the_client_only_pictures_are_refused(
    complaint: Callable[..., str], folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("triptych_client"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "--plot needs the client" in complaint("bench", "--offline", "--grid", "--plot", "grid.png")
    assert "--lengths: " in complaint("bench", "--offline", folders["llama"], "--lengths", "3")


def test_help_of_the_load_generator_says_where_else_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "--offline --help" in capsys.readouterr().out


# timing


def test_what_is_quick_is_repeated_until_it_took_its_time() -> None:
    assert len(repeated(lambda: 0.5, float, at_least_s=4.0)) == 8
    assert len(repeated(lambda: 100.0, float, at_least_s=1.0)) == 5


def test_the_first_time_does_not_count() -> None:
    runs = list[int]()
    assert median_s(lambda: runs.append(1), at_least_s=0.0) < 0.01
    assert len(runs) == 6

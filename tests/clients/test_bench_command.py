"""The load generator's command line: flags, files, the bar, and what each mistake is answered with."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import sys
from pathlib import Path

import pytest

from tests.clients.scripted_server import ScriptedServer, says, streams, token_event
from triptych_client.bench import Tally
from triptych_client.bench.command import main
from triptych_client.bench.progress import Bar

FINAL = token_event(2, "b", whole="ab", finish_reason="length", generated_tokens=2)
TGI = ["--api", "tgi"]


@pytest.fixture
def talking(server: ScriptedServer) -> ScriptedServer:
    """Streams two tokens to whoever asks."""
    server.on("/generate_stream", streams(token_event(1, "a"), FINAL))
    return server


def test_the_command_prints_a_table(talking: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    talking.on("/fill-mask", says([]))
    flags = ["--streams", "2", "--tokens", "2", "--fill-mask-every-ms", "5", "--slo", "ttft=9999,itl=9999"]
    assert main([talking.url, *flags]) == 0
    printed, complaints = capsys.readouterr()
    assert "closed loop of 2; POST /generate_stream" in printed
    assert "2 ok, 0 failed, 0 shorter than asked" in printed
    assert "(2, 100.0%, met ttft 9999 ms, itl 9999 ms)" in printed
    rows = ("end to end", "first token", "between tokens", "time per token", "fill-mask ")
    assert len([line for line in printed.splitlines() if line.startswith(rows)]) == 6  # fill-mask has counts
    assert complaints == ""  # no bar where nobody looks


def test_the_command_prints_json(talking: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--streams", "2", "--requests", "3", "--tokens", "3"]
    assert main(["--url", talking.url, "--dialect", "tgi", *flags, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["short"], report["output_tokens"]) == (3, 3, 6)
    assert report["first_token"]["count"] == 3
    assert report["fill_mask"] is None


def test_the_command_writes_json_beside_the_table(
    talking: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    assert main([talking.url, *TGI, "--streams", "1", "--tokens", "2", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["load"] | {"url": ""} == {
        "url": "",
        "api": "generate_stream",
        "path": "/generate_stream",
        "streamed": True,
        "model": None,
        "streams": 1,
        "rate": None,
        "burst": None,
        "requests": 1,
        "tokens": 2,
        "batch": None,
        "prompt_words": 32,
        "rivals": 0,
        "fill_mask_every_ms": None,
        "warmup": 1,
        "seed": 0,
    }
    assert "1 ok, 0 failed" in capsys.readouterr().out


def test_openai_s_address_ends_in_v1_and_ours_does_not(talking: ScriptedServer) -> None:
    assert main([f"{talking.url}/v1/", *TGI, "--streams", "1", "--tokens", "2"]) == 0
    assert {asked.path for asked in talking.asked} == {"/generate_stream"}


def test_prompts_come_from_words_tokens_or_a_file(talking: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"eins"\n"zwei"\n')
    common = [talking.url, *TGI, "--streams", "1", "--warmup", "0", "--tokens", "2"]
    for flags in (["--prompt-words", "5"], ["--prompt-tokens", "64"], ["--prompts", str(file)]):
        assert main([*common, *flags]) == 0
    texts = [asked.body["inputs"] for asked in talking.asked if asked.body]
    lengths = [len(text.split()) for text in texts]
    assert (lengths, texts[-2:]) == ([5, 61, 1, 1], ["eins", "zwei"])


def test_a_failed_request_fails_the_command(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = says({"error": "full"}, status=429)
    asked_for_route, warm_up, counted = itertools.repeat(streams(FINAL), 3)
    server.on("/generate_stream", asked_for_route, warm_up, counted, busy)
    assert main([server.url, "--streams", "1", "--requests", "3"]) == 1
    printed = capsys.readouterr().out
    assert "1 ok, 2 failed" in printed
    assert "2 x Overloaded (429): full" in printed


def test_a_server_that_is_not_there_is_one_line(nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", nowhere], program="triptych bench") == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"triptych bench: no server answers at {nowhere}")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--streams", "0"], "argument --streams: 0 is less than 1"),
        (["--rate", "-1"], "argument --rate: -1 is not a positive number"),
        (["--rate", "nan"], "argument --rate: nan is not a positive number"),
        (["--tokens", "many"], "argument --tokens"),
        (["--warmup", "-1"], "argument --warmup: -1 is less than 0"),
        (["--api", "smtp"], "argument --api/--dialect: invalid choice: 'smtp'"),
        (["--url", "localhost"], "the address must start with http://"),
        (["--streems", "1"], "unrecognized arguments: --streems"),
        (["http://a", "--url", "http://b"], "the address is given twice"),
        (["--slo", "ttft=soon"], "argument --slo: 'ttft=soon'"),
        (["--json", "http://a"], "http://a is no file; write the address before --json"),
        (["--json", "missing/a.json"], "missing/a.json cannot be written"),
        (["--plot", "a.bmp"], "argument --plot: a.bmp must end in one of .png"),
        (["--prompt", ""], "argument --prompt: a text cannot be empty"),
        (["--streams", "4", "--rate", "2"], "--streams is of a closed loop; with --rate"),
        (["--fill-mask-text", "a [MASK]"], "--fill-mask-text is asked only with --fill-mask-every-ms"),
        (["--prompt", "a", "--prompt-tokens", "3"], "not allowed with argument --prompt"),
        (["--prompts", "missing.jsonl"], "No such file or directory: 'missing.jsonl'"),
        (["--api", "embed", "--slo", "ttft=1"], "only e2e can be measured"),
        (["--api", "generate", "--batch", "2"], "no batch of 2"),
        (["--api", "generate", "--burst", "2"], "they need a rate"),
    ],
)
def test_a_mistaken_flag_is_named(
    flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    assert complaint in capsys.readouterr().err


# The picture.


def test_a_picture_without_matplotlib_is_refused_before_any_load(
    talking: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="2"):
        main([talking.url, *TGI, "--plot", str(tmp_path / "a.png")])
    assert "type: pip install 'triptych-client[plot]'" in capsys.readouterr().err
    assert talking.asked == []


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra `plot` is not installed"
)
@pytest.mark.parametrize("kind", ["streams", "with failures", "encoder", "all failed"])
def test_a_picture_is_drawn(server: ScriptedServer, tmp_path: Path, kind: str) -> None:
    full, good = says({"error": "full"}, status=429), streams(token_event(1, "a"), FINAL)
    server.on("/generate_stream", *{"with failures": [full, good], "all failed": [full]}.get(kind, [good]))
    server.on("/embed", says([[0.5, 0.25]]))
    file = tmp_path / "a.png"
    api = "embed" if kind == "encoder" else "generate_stream"
    main(
        [server.url, "--api", api, "--streams", "2", "--requests", "6", "--warmup", "0", "--plot", str(file)]
    )
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 10_000


# The bar.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_fills_and_is_taken_away() -> None:
    terminal = Terminal()
    bar = Bar(terminal)
    bar(Tally(requests=4))
    bar(Tally(requests=4, ended=3, failed=1, tokens=50))
    empty, part = terminal.getvalue().split("\r")[1:]
    assert f"[{'.' * 30}] 0/4 requests" in empty
    assert f"[{'#' * 22}{'.' * 8}] 3/4 requests" in part
    assert "1 failed" in part
    bar.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_the_bar_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    Bar(terminal)(Tally(requests=4, ended=4))
    assert len(terminal.getvalue().removeprefix("\r").removesuffix("\x1b[K")) == 19


def test_the_bar_is_silent_where_nobody_looks() -> None:
    stream = io.StringIO()
    bar = Bar(stream)
    bar(Tally(requests=4))
    bar.clear()
    assert stream.getvalue() == ""

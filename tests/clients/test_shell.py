"""The shell commands against a scripted server, through the parser that `triptych` uses."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server import shell
from server.shell import conversation, terminal
from tests.clients.scripted_server import Answer, ScriptedServer, says, sse, streams, token_event

ONCE = token_event(1, "Once")
UPON = token_event(2, " upon", whole="Once upon", finish_reason="length", generated_tokens=2, seed=7)
CAPITAL = {"score": 0.8, "token": 5, "token_str": "capital", "sequence": "the capital"}
HEART = {"score": 0.05, "token": 6, "token_str": "heart", "sequence": "the heart"}

# `triptych` as a process of its own: what a terminal, a pipe or a signal sees.
PROGRAM = """
import argparse, signal, sys
from server import shell
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
parser = argparse.ArgumentParser(prog="triptych")
shell.add_commands(parser.add_subparsers(required=True))
args = parser.parse_args()
sys.exit(args.run(args))
"""


def triptych(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="triptych")
    shell.add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(arguments)
    status: int = args.run(args)
    return status


def answers(*texts: str) -> Answer:
    """A chat's stream that says `texts`."""
    deltas = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    return streams(*deltas, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, "[DONE]")


# generate


def test_generate_prints_the_text(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/generate_stream", streams(ONCE, UPON))
    flags = [
        "--max-new-tokens",
        "2",
        "--temperature",
        "0.5",
        "--top-k",
        "9",
        "--top-p",
        "0.9",
        "--min-p",
        "0.1",
    ]
    flags += ["--repetition-penalty", "1.1", "--seed", "7", "--stop", "a", "--stop", "b", "--ignore-eos"]
    assert triptych("generate", "Hi", "--url", server.url, "--model", "m", *flags) == 0
    assert capsys.readouterr().out == "Once upon\n"
    body = server.asked[0].body
    assert (body["inputs"], body["model"]) == ("Hi", "m")
    assert body["parameters"] == {
        "max_new_tokens": 2,
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "seed": 7,
        "stop": ["a", "b"],
        "ignore_eos": True,
        "do_sample": True,
        "details": True,
    }


def test_a_dash_reads_standard_input(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("/generate_stream", streams(UPON))
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    assert triptych("generate", "-", "--url", server.url) == 0
    assert server.asked[0].body["inputs"] == "two\nlines"


def test_generate_as_json_says_everything(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    details = {"finish_reason": "length", "generated_tokens": 1, "seed": 7, "tokens": []}
    server.on("/generate", says({"generated_text": " time", "details": details}))
    assert triptych("generate", "Hi", "--url", server.url, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["text"], printed["finish_reason"], printed["seed"]) == (" time", "length", 7)


def test_a_terminal_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    terminal.show("a\x1b[31mb\tc\n\x07é\x9b")
    assert screen.getvalue() == "a[31mb\tc\né"


def test_a_broken_stream_is_told_after_what_came(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/generate_stream", streams(ONCE))
    assert triptych("generate", "Hi", "--url", server.url) == 1
    printed = capsys.readouterr()
    assert printed.out == "Once"
    assert "the stream ended without its final event" in printed.err


def test_what_a_text_must_be_comes_from_flags_and_files(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("/generate_stream", streams(ONCE, UPON))
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    for flags in (
        ["--json-schema", str(file)],
        ["--regex", "a+"],
        ["--choice", "yes", "--choice", "no"],
        ["--grammar", str(file)],
    ):
        assert triptych("generate", "Hi", "--url", server.url, *flags) == 0
    assert [asked.body["parameters"]["grammar"] for asked in server.asked] == [
        {"type": "json", "value": '{"type": "object"}'},
        {"type": "regex", "value": "a+"},
        {"type": "choice", "value": ["yes", "no"]},
        {"type": "ebnf", "value": '{"type": "object"}'},
    ]


def test_deadlines_and_other_parameters_are_sent(server: ScriptedServer) -> None:
    server.on("/generate_stream", streams(ONCE, UPON))
    flags = ["--deadline", "2.5", "--set", "dry_multiplier=0.5", "--set", "cache_salt=mine"]
    assert triptych("generate", "Hi", "--url", server.url, *flags) == 0
    assert server.asked[0].body["parameters"] == {
        "max_new_tokens": 128,
        "timeout": 2.5,
        "dry_multiplier": 0.5,
        "cache_salt": "mine",
        "details": True,
    }


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--json-schema", "/nowhere/schema.json"], "cannot read /nowhere/schema.json: No such file"),
        (["--set", "dry_multiplier"], "must be NAME=VALUE"),
        (["--early-stopping", "soon"], "argument --early-stopping: must be true, false or never"),
        (["--regex", "a", "--choice", "b"], "not allowed with argument"),
    ],
)
def test_flags_that_mean_nothing_are_named(
    capsys: pytest.CaptureFixture[str], flags: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit):
        triptych("generate", "Hi", *flags)
    assert complaint in capsys.readouterr().err


def test_several_texts_are_numbered(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    details = {"finish_reason": "length", "best_of_sequences": [{"generated_text": " two"}]}
    server.on("/generate", says({"generated_text": " one", "details": details}))
    assert triptych("generate", "Hi", "--url", server.url, "--n", "2", "--temperature", "1") == 0
    assert capsys.readouterr().out == "text 1\n one\ntext 2\n two\n"
    assert server.asked[0].body["parameters"]["best_of"] == 2


# verify


@pytest.mark.parametrize(
    ("verdict", "status"), [("identical", 0), ("different", 1), ("other_fingerprint", 1)]
)
def test_a_receipt_is_written_and_verified(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, verdict: str, status: int
) -> None:
    server.on("/generate_stream", streams(ONCE, UPON | {"receipt": {"hash": "0"}}))
    server.on("/v1/verify", says({"verdict": verdict}))
    file = str(tmp_path / "receipt.json")
    assert triptych("generate", "Hi", "--url", server.url, "--receipt", file) == 0
    assert server.asked[0].body["parameters"]["receipt"] is True
    assert triptych("verify", file, "--url", server.url, "--model", "m", "--force") == status
    assert server.asked[1].body == {"receipt": {"hash": "0"}, "model": "m", "force": True}
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"] == verdict


@pytest.mark.parametrize("content", ["[]", "{", None])
def test_a_file_that_holds_no_receipt_is_a_mistaken_call(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "receipt.json"
    if content is not None:
        file.write_text(content)
    assert triptych("verify", str(file), "--url", server.url) == 2
    assert capsys.readouterr().err.startswith("triptych verify: ")
    assert server.asked == []


# fill-mask


def test_fill_mask_prints_a_table(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/fill-mask", says([CAPITAL, HEART]))
    assert triptych("fill-mask", "the [MASK]", "--url", server.url, "--target", "capital") == 0
    expected = ["  0.8000  capital  the capital", "  0.0500  heart    the heart"]
    assert capsys.readouterr().out.splitlines() == expected
    assert server.asked[0].body["parameters"] == {"top_k": 5, "targets": ["capital"]}


def test_fill_mask_numbers_the_masks(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/fill-mask", says([[CAPITAL], [HEART]]))
    assert triptych("fill-mask", "[MASK] [MASK]", "--url", server.url) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == ["mask 1", "mask 2"]


def test_fill_mask_as_json(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/fill-mask", says([CAPITAL]))
    assert triptych("fill-mask", "the [MASK]", "--url", server.url, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [[CAPITAL]]


# summarize, translate


def test_summarize_prints_the_summary(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/summarize", says([{"summary_text": "In short."}]))
    flags = ["--max-new-tokens", "9", "--num-beams", "4", "--length-penalty", "2", "--early-stopping", "true"]
    flags += ["--truncate", "--clean-up-spaces", "--deadline", "2.5", "--model", "m", "--set", "min_length=3"]
    assert triptych("summarize", "A long text", "--url", server.url, *flags) == 0
    assert capsys.readouterr().out == "In short.\n"
    written = {
        "max_new_tokens": 9,
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
        "min_length": 3,
    }
    assert server.asked[0].body == {
        "inputs": ["A long text"],
        "model": "m",
        "parameters": {
            "truncation": "only_first",
            "clean_up_tokenization_spaces": True,
            "timeout": 2.5,
            "generate_parameters": written,
        },
    }


def test_translate_says_from_what_to_what_and_leaves_the_rest_to_the_models_folder(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/translate", says([{"translation_text": "Hallo."}]))
    assert triptych("translate", "Hello.", "--from", "en", "--to", "de", "--url", server.url, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"text": "Hallo."}
    parameters = {"src_lang": "en", "tgt_lang": "de", "generate_parameters": {}}
    assert server.asked[0].body == {"inputs": ["Hello."], "parameters": parameters}


@pytest.mark.parametrize("typed", [["summarize"], ["summarize", "-"], ["translate"], ["translate", "-"]])
def test_a_text_to_rewrite_may_come_from_standard_input(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, typed: list[str]
) -> None:
    server.on("/summarize", says([{"summary_text": "x"}]))
    server.on("/translate", says([{"translation_text": "x"}]))
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    assert triptych(*typed, "--url", server.url) == 0
    assert server.asked[0].body["inputs"] == ["two\nlines"]


@pytest.mark.parametrize(("typed", "sent"), [("true", True), ("false", False), ("never", "never")])
def test_generate_searches_with_beams(server: ScriptedServer, typed: str, sent: object) -> None:
    server.on("/generate_stream", streams(ONCE, UPON))
    assert triptych("generate", "Hi", "--url", server.url, "--num-beams", "4", "--early-stopping", typed) == 0
    parameters = {"max_new_tokens": 128, "num_beams": 4, "early_stopping": sent, "details": True}
    assert server.asked[0].body["parameters"] == parameters


# chat


def test_chat_answers_one_question(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/v1/chat/completions", answers("Par", "is."))
    assert triptych("chat", "The capital?", "--system", "Be brief.", "--url", server.url) == 0
    assert capsys.readouterr().out == "Paris.\n"
    assert server.asked[0].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "The capital?"},
    ]


def test_chat_as_json(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}
    server.on("/v1/chat/completions", says({"choices": [choice]}))
    assert triptych("chat", "The capital?", "--url", server.url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == "Paris."


Typed = str | type[BaseException]
Converse = Callable[..., int]


@pytest.fixture
def converse(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Converse:
    """A conversation in which the user types these lines, or keys, and then ends the input."""

    def converse(*typed: Typed) -> int:
        lines = iter([*typed, EOFError])

        def type_a_line(prompt: str) -> str:
            line = next(lines)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", type_a_line)
        return triptych("chat", "--system", "Be brief.", "--url", server.url)

    return converse


def said(server: ScriptedServer, number: int) -> list[str]:
    return [message["content"] for message in server.asked[number].body["messages"]]


def test_a_conversation_remembers(server: ScriptedServer, converse: Converse) -> None:
    server.on("/v1/chat/completions", answers("Hel", "lo."), answers("Ann."))
    assert converse("I am Ann.", "", "Who am I?", "/exit", "never asked") == 0
    assert said(server, 0) == ["Be brief.", "I am Ann."]
    assert said(server, 1) == ["Be brief.", "I am Ann.", "Hello.", "Who am I?"]
    assert len(server.asked) == 2


def test_clear_forgets_all_but_the_system_message(server: ScriptedServer, converse: Converse) -> None:
    server.on("/v1/chat/completions", answers("Hello."))
    assert converse("I am Ann.", "/clear", "Who am I?") == 0
    assert said(server, 1) == ["Be brief.", "Who am I?"]


def test_an_unknown_command_is_named_and_not_sent(
    server: ScriptedServer, converse: Converse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert converse("/quit") == 0
    assert "/quit is no command: /exit leaves" in capsys.readouterr().out
    assert server.asked == []


def test_ctrl_c_at_the_prompt_says_how_to_leave(
    server: ScriptedServer, converse: Converse, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/v1/chat/completions", answers("Hello."))
    assert converse(KeyboardInterrupt, "Hi") == 0
    assert "/exit leaves" in capsys.readouterr().out
    assert len(server.asked) == 1


def test_ctrl_c_stops_an_answer_only_and_what_was_heard_is_remembered(
    server: ScriptedServer,
    converse: Converse,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show = terminal.show

    def interrupted(text: str) -> None:
        if text == "STOP HERE":
            raise KeyboardInterrupt
        show(text)

    def endless() -> Iterator[bytes]:
        yield sse({"choices": [{"index": 0, "delta": {"content": "Once"}}]})
        yield sse({"choices": [{"index": 0, "delta": {"content": "STOP HERE"}}]})
        while True:
            yield sse({"choices": [{"index": 0, "delta": {"content": "more"}}]}) * 100

    monkeypatch.setattr(conversation, "show", interrupted)
    forever = Answer(content_type="text/event-stream", chunks=endless)
    server.on("/v1/chat/completions", forever, answers("Well."))
    assert converse("A story!", "Go on.") == 0
    assert server.hung_up.wait(5)
    assert "Once [stopped]\n" in capsys.readouterr().out
    assert said(server, 1) == ["Be brief.", "A story!", "Once", "Go on."]


def test_a_refusal_does_not_end_the_conversation(
    server: ScriptedServer, converse: Converse, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("/v1/chat/completions", says({"error": {"message": "too long"}}, status=400), answers("Yes."))
    assert converse("a" * 99, "Shorter?") == 0
    assert capsys.readouterr().err == "triptych chat: too long\n"
    assert said(server, 1) == ["Be brief.", "Shorter?"]


# What goes wrong.


COMMANDS = [("generate", "a"), ("chat", "a"), ("fill-mask", "a"), ("summarize", "a"), ("translate", "a")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_not_there_is_one_line(
    nowhere: str, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert triptych(*command, "--url", nowhere) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"triptych {command[0]}: no server answers at {nowhere}")
    assert complaint.endswith("`triptych serve` starts one\n")
    assert complaint.count("\n") == 1


def test_an_address_that_is_none_is_a_mistaken_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert triptych("generate", "a", "--url", "localhost:8000") == 2
    assert "the address must start with http://" in capsys.readouterr().err


def test_a_refusal_is_told_in_the_servers_words(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    error = "Input validation error: `inputs` cannot be empty"
    server.on("/generate_stream", says({"error": error, "error_type": "validation"}, status=422))
    assert triptych("generate", "", "--url", server.url) == 1
    assert capsys.readouterr().err == f"triptych generate: {error}\n"
    server.on("/translate", says({"error": error, "error_type": "validation"}, status=422))
    assert triptych("translate", "", "--url", server.url) == 1
    assert capsys.readouterr().err == f"triptych translate: {error}\n"


@pytest.mark.parametrize("command", [*COMMANDS, ("bench",)])
@pytest.mark.parametrize("module", ["triptych_client", "httpx"])
def test_a_missing_client_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], module: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("triptych_client", "httpx")]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name.split(".")[0] == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    assert triptych(*command) == 2
    expected = f"triptych {command[0]} needs the client; type: pip install -e clients/python\n"
    assert capsys.readouterr().err == expected


def test_bench_takes_its_own_flags(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/generate_stream", streams(ONCE, UPON))
    assert triptych("bench", "--url", server.url, "--streams", "2", "--tokens", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] == 2
    with pytest.raises(SystemExit, match="0"):
        triptych("bench", "--help")
    assert "usage: triptych bench" in capsys.readouterr().out


def test_the_parser_needs_neither_client_nor_torch() -> None:
    check = "import sys, server.shell; print({'triptych_client', 'httpx', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def endless_stream() -> Answer:
    def chunks() -> Iterator[bytes]:
        for number in itertools.count(1):
            yield sse(token_event(number, "more and more ")) * 100

    return Answer(content_type="text/event-stream", chunks=chunks)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_some(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return os.read(process.stdout.fileno(), 4)


def test_ctrl_c_ends_generate_without_a_traceback_and_cancels_it(server: ScriptedServer) -> None:
    server.on("/generate_stream", endless_stream())
    with start("generate", "a", "--url", server.url) as process:
        assert read_some(process) == b"more"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (130, b"")
    assert server.hung_up.wait(5)


def test_a_reader_that_has_seen_enough_ends_generate_quietly(server: ScriptedServer) -> None:
    server.on("/generate_stream", endless_stream())
    with start("generate", "a", "--url", server.url) as process:
        assert read_some(process) == b"more"
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=20) == 141
    assert server.hung_up.wait(5)


def test_what_a_mistaken_flag_was_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    arguments: list[Any] = ["generate", "a", "--max-new-tokens", "many"]
    with pytest.raises(SystemExit, match="2"):
        triptych(*arguments)
    assert "argument --max-new-tokens: invalid int value: 'many'" in capsys.readouterr().err

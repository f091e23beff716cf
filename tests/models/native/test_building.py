"""Compiling: once, whole or not at all, and with a reason where it cannot be."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.native import building, library
from models.native.building import CannotBuild, build, find_compiler, find_library, library_name
from models.native.library import Library, open_library
from server.settings import Settings

ROOT = Path(__file__).parents[3]
WARNINGS = ("-Wall", "-Wextra", "-Werror")
# GCC's own headers of intrinsics start from vectors that they leave undefined, on purpose.
OF_GCC = ("-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-uninitialized")

needs_a_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that compile at once, in place of the kernels."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "kernels.cpp").write_text("")
    (source / "one.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) int one() { return 1; }'
    )
    monkeypatch.setattr(building, "SOURCE", source)
    return source


def compiler_that(tmp_path: Path, does: str) -> str:
    path = tmp_path / "c++"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return str(path)


@needs_a_compiler
def test_what_is_built_is_whole_and_nothing_else_is_left(small: Path, tmp_path: Path) -> None:
    built = build(tmp_path / "cache")
    assert find_library(tmp_path / "cache") == built
    assert {path.name for path in built.parent.iterdir()} == {built.name, "building.lock"}


@needs_a_compiler
def test_a_change_of_a_source_is_another_library(small: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "cache")
    (small / "one.h").write_text("// new")
    assert library_name() != first.name
    assert find_library(tmp_path / "cache") is None


@needs_a_compiler
@pytest.mark.parametrize("kept", [0, 20, 4000, -1])
def test_a_library_that_was_cut_off_is_compiled_again(small: Path, tmp_path: Path, kept: int) -> None:
    built = build(tmp_path)
    whole = built.read_bytes()
    built.write_bytes(whole[:kept])
    assert find_library(tmp_path) is None
    assert build(tmp_path).stat().st_size == len(whole)


@needs_a_compiler
def test_of_two_processes_one_compiles(small: Path, tmp_path: Path) -> None:
    real, calls = find_compiler(), tmp_path / "calls"
    compiler = compiler_that(tmp_path, f'echo >> {calls}; sleep 0.2; exec {real} "$@"')
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=build, args=(tmp_path / "cache",), kwargs={"compiler": compiler}) for _ in "ab"
    ]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    tried = sum(bool(flags) for flags in building._variants().values())
    assert len(calls.read_text().splitlines()) == tried + len(list(building._units())) + 1


@needs_a_compiler
def test_the_log_says_that_compiling_takes_a_while(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        build(tmp_path)
        build(tmp_path)
    assert [
        record.message
        for record in caplog.records
        if "compiling kernels, once: this may take a minute" in record.message
    ]
    assert len(caplog.records) == 1


def test_without_a_compiler_that_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuild, match="there is no C\\+\\+ compiler"):
        build(tmp_path)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    compiler = compiler_that(tmp_path, "echo 'kernels.cpp:3: error: no such thing' >&2; exit 1")
    with pytest.raises(CannotBuild, match=r"c\+\+ failed: kernels.cpp:3: error: no such thing"):
        build(tmp_path / "cache", compiler=compiler)
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {"building.lock", f"{library_name()}.failed"}


def test_what_failed_is_not_tried_again_at_every_start(small: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    compiler = compiler_that(tmp_path, f"echo >> {calls}; echo 'error: no such thing' >&2; exit 1")
    counts = set[int]()
    for _ in range(3):
        with pytest.raises(CannotBuild, match=r"c\+\+ failed: error: no such thing"):
            build(tmp_path / "cache", compiler=compiler)
        counts.add(len(calls.read_text()))
    assert len(counts) == 1


@needs_a_compiler
def test_a_compiler_that_failed_is_asked_again_when_it_was_changed_or_a_day_later(
    small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    broken = compiler_that(tmp_path, "exit 1")
    with pytest.raises(CannotBuild):
        build(folder, compiler=broken)
    [failure] = folder.glob("*.failed")
    with pytest.raises(CannotBuild, match=f"until {failure} is deleted"):
        build(folder, compiler=broken)
    os.utime(failure, (0, 0))
    with pytest.raises(CannotBuild, match=r"status 1$"):
        build(folder, compiler=broken)
    build(folder, compiler=compiler_that(tmp_path, f'exec {find_compiler()} "$@"'))
    assert not failure.exists()


def test_a_compiler_that_is_killed_says_its_status_and_is_asked_again(small: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    compiler = compiler_that(tmp_path, f"echo >> {calls}; kill -9 $$")
    with pytest.raises(CannotBuild, match="failed: status -9"):
        build(tmp_path / "cache", compiler=compiler)
    assert not list((tmp_path / "cache").glob("*.failed"))


def test_who_asks_for_it_has_what_failed_tried_again(small: Path, tmp_path: Path) -> None:
    """As an installation does: headers may have been missing."""
    broken = compiler_that(tmp_path, "exit 1")
    for again, reason in ((False, r"status 1$"), (False, "not tried again for a day"), (True, r"status 1$")):
        with pytest.raises(CannotBuild, match=reason):
            build(tmp_path / "cache", compiler=broken, again=again)


@pytest.mark.parametrize(("flags", "warnings"), [(library._AVX512, 1), ({"avx2"}, 0)])
def test_kernels_that_are_less_than_the_processor_has_are_told_of(
    kernels: Library,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flags: set[str],
    warnings: int,
) -> None:
    """What was compiled once, by a compiler of then, is found at every start."""
    found = Library(kernels.path)
    monkeypatch.setattr(found, "start", lambda *_: True)
    monkeypatch.setattr(library, "_load", lambda _: found)
    monkeypatch.setattr(library, "_processor_flags", lambda: flags)
    found.name = "avx2"
    assert open_library(Path(), kernels="auto", threads=1) is found
    assert [record.message for record in caplog.records] == [
        f"the kernels were compiled without avx512, which this processor has, and run with avx2: delete "
        f"{kernels.path}, and a newer compiler makes them again"
    ][:warnings]


@needs_a_compiler
@pytest.mark.skipif(len(building._variants()) == 1, reason="there is only one instruction set")
def test_a_compiler_that_does_not_know_the_newest_instructions_makes_the_others(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As GCC 9, which has no -mavx512bf16."""
    (small / "one.cpp").write_text(
        """extern "C" __attribute__((visibility("default"))) int sets() {
        #ifndef TRIPTYCH_WITHOUT_AVX512
            return 3;
        #else
            return 2;
        #endif
        }"""
    )
    refuse = 'case "$*" in *avx512bf16*) echo "error: unrecognized option" >&2; exit 1;; esac'
    old = compiler_that(tmp_path, f'{refuse}\nexec {find_compiler()} "$@"')
    assert ctypes.CDLL(str(build(tmp_path / "new"))).sets() == 3
    assert not caplog.records
    assert ctypes.CDLL(str(build(tmp_path / "old", compiler=old))).sets() == 2
    assert [record.message for record in caplog.records] == [
        f"{old} is too old for avx512: the kernels do without"
    ]


def test_errors_are_found_in_any_language(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler speaks the user's, in whatever encoding."""
    monkeypatch.setenv("LC_ALL", "de_DE.ISO-8859-1")
    says = "[ \"$LC_ALL\" = C ] && echo 'error: \\351' >&2 || echo 'Fehler' >&2"
    with pytest.raises(CannotBuild, match="failed: error: \ufffd"):
        build(tmp_path / "cache", compiler=compiler_that(tmp_path, f"printf x; {says}; exit 1"))


@needs_a_compiler
def test_who_waits_for_another_process_says_so(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = compiler_that(tmp_path, f'sleep 0.1; exec {find_compiler()} "$@"')
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: build(tmp_path / "cache", compiler=compiler), range(2)))
    messages = [record.message for record in caplog.records]
    assert sorted(messages) == [
        "another process is compiling kernels: waiting for it",
        "compiling kernels, once: this may take a minute",
    ]


def test_a_folder_that_cannot_be_made_is_named(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotBuild, match="file/kernels: Not a directory"):
        build(tmp_path / "file" / "kernels", compiler="c++")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_named(small: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CannotBuild, match="Permission denied"):
        build(tmp_path / "kernels", compiler="c++")


def test_what_the_loader_refuses_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "BUILT", tmp_path)
    for folder in (tmp_path, tmp_path / "kernels"):
        folder.mkdir(exist_ok=True)
        (folder / library_name()).write_bytes(b"of another machine")
        building._seal(folder / library_name())
    with pytest.raises(CannotBuild, match="the kernels cannot be loaded"):
        open_library(tmp_path, kernels="auto", threads=1)
    assert "the kernels that were installed cannot be loaded" in caplog.text


def test_an_instruction_set_that_is_not_there_is_named(kernels: Library) -> None:
    with pytest.raises(CannotBuild, match="this processor has no avx1024"):
        open_library(Settings().cache, kernels="avx1024", threads=2)


@pytest.mark.parametrize("compiler", ["g++", "g++-10", "g++-11", "g++-13", "g++-14", "clang++", "clang++-14"])
@pytest.mark.parametrize("unit", list(building._units()), ids=lambda unit: unit.name)
def test_compilers_have_nothing_to_say(compiler: str, unit: building._Unit) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    warnings = (*WARNINGS, *(OF_GCC if compiler.startswith("g++") else ()))
    command = [
        compiler,
        *building.FLAGS,
        *building.EXACT,
        *unit.flags,
        *warnings,
        "-O1" if compiler == "g++" else "-O0",  # which sees a little less, in a fourth of the time
        "-c",
        str(unit.source),
    ]
    done = subprocess.run([*command, "-o", os.devnull], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_sources_and_what_was_built(small: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, small)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"models/native/source/kernels.cpp", "models/native/source/one.cpp"} <= names
    if find_compiler() is None:
        assert wheel.name.endswith("-py3-none-any.whl")
    else:
        assert f"models/native/built/{library_name()}" in names
        assert not wheel.name.endswith("-any.whl")


def test_an_installation_goes_on_where_compiling_fails(small: Path, tmp_path: Path) -> None:
    (small / "one.cpp").write_text("this is not C++")
    assert make_wheel(tmp_path, small).name.endswith("-py3-none-any.whl")


def make_wheel(folder: Path, source: Path) -> Path:
    """Of a copy of the project, with other sources."""
    copy = folder / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    for name in ("server", "models"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("built", "source", "__pycache__")
        )
    shutil.copytree(source, copy / "models/native/source")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel

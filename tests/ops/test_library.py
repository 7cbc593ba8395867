"""One library for the sources at hand: a change to any of them makes another."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from itera_lite import ops
from itera_lite.ops import library
from tests.other_user import as_other_user, shared_folder


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """A copy of the sources that a test may change, and an empty cache."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for path in (*library.FOLDER.glob("*.cc"), *library.FOLDER.glob("*.h")):
        shutil.copy(path, folder)
    monkeypatch.setattr(library, "FOLDER", folder)
    monkeypatch.setenv("ITERA_CACHE", str(tmp_path / "cache"))
    return folder


def test_every_source_is_compiled_and_counts_in_the_name(sources, monkeypatch):
    asked: list[tuple[Path, list[Path]]] = []

    def compile_nothing(compiler, flags, files, path):
        asked.append((path, files))
        raise OSError("not now")

    monkeypatch.setattr(library, "_compile", compile_nothing)

    def ask() -> Path:
        with pytest.raises(OSError, match="not now"):
            library.load()
        return asked[-1][0]

    first = ask()
    assert ask() == first
    assert asked[0][1] == sorted(sources.glob("*.cc"))
    assert len(asked[0][1]) > 5
    names = {first}
    for path in sources.iterdir():
        before = path.read_text()
        path.write_text(before + "\n// changed\n")
        names.add(ask())
        path.write_text(before)
    assert len(names) == 1 + len(list(sources.iterdir()))
    assert ask() == first


def test_what_does_not_compile_is_said_and_leaves_nothing(sources):
    for path in sources.iterdir():
        path.unlink()
    (sources / "good.cc").write_text('extern "C" long one() { return 1; }\n')
    (sources / "broken.cc").write_text("int broken(\n")
    with pytest.raises(OSError, match=r"broken\.cc"):
        library.load()
    (sources / "broken.cc").unlink()
    loaded = library.load()
    assert loaded.one() == 1
    left = list((sources.parent / "cache" / "kernels").iterdir())
    assert sorted(path.suffix for path in left) == [".sha256", ".so"]


@pytest.fixture
def one(sources) -> Path:
    """A single source, which is compiled in a moment."""
    for path in sources.iterdir():
        path.unlink()
    (sources / "one.cc").write_text('extern "C" long one() { return 1; }\n')
    return sources


def library_of(sources) -> Path:
    (path,) = (sources.parent / "cache" / "kernels").glob("*.so")
    return path


def test_a_compiler_may_have_arguments_and_spaces(one, monkeypatch):
    folder = one.parent / "my tools"
    folder.mkdir()
    real = shutil.which("g++") or shutil.which("c++")
    script = folder / "c compiler"
    script.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/calls"\nexec {real} "$@"\n')
    script.chmod(0o755)
    for given in (f"'{script}' -DONE", str(script)):
        monkeypatch.setenv("CXX", given)
        assert library.load().one() == 1
    assert "-DONE" in (folder / "calls").read_text()
    assert len(list((one.parent / "cache" / "kernels").glob("*.so"))) == 2


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler -O2", r"CXX=no-such-compiler -O2: there is no program 'no-such-comp"),
        ("'unclosed", "can't be read as a command"),
        ("false", r"the compiler failed \(exit code 1\): false --version"),
    ],
)
def test_a_compiler_that_does_not_work_is_said_once(compiler, message, one, monkeypatch, capsys):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(OSError, match=message):
        library.load()
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setattr(ops, "_warned", None)
    monkeypatch.setattr(ops, "_enabled", False)
    assert ops.enable() == ops.enable() is not None
    said = capsys.readouterr().err
    assert said.count("warning: without the fused operations") == 1
    assert compiler in said


def test_no_compiler_at_all(one, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(one))
    with pytest.raises(OSError, match=r"no C\+\+ compiler found.*install one"):
        library.load()


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_library_is_compiled_again(damage, one):
    library.load()
    path = library_of(one)
    whole = path.read_bytes()
    path.unlink()  # this process has the old one in use
    path.write_bytes({"cut": whole[:5000], "empty": b"", "other": b"\x7fELF" + whole[:90]}[damage])
    assert library.load().one() == 1
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_said(one, monkeypatch):
    file = one.parent / "a_file"
    file.write_text("")
    monkeypatch.setenv("ITERA_CACHE", str(file))
    with pytest.raises(OSError, match=r"can't be written to '.*a_file.kernels' .*ITERA_CACHE"):
        library.load()
    with shared_folder() as folder:
        monkeypatch.setattr(library, "FOLDER", shutil.copytree(one, folder / "sources"))
        monkeypatch.setenv("ITERA_CACHE", str(folder))
        folder.chmod(0o555)
        with as_other_user(), pytest.raises(OSError, match=r"Permission denied.*ITERA_CACHE"):
            library.load()


def test_without_a_home_folder_there_is_no_library(one, monkeypatch, capsys):
    monkeypatch.delenv("ITERA_CACHE")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setattr(ops, "_warned", None)
    monkeypatch.setattr(ops, "_enabled", False)
    assert "set ITERA_CACHE" in ops.enable()
    assert "warning: without the fused operations" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1 << 40, [(-3, 1 << 30), (-1, (1 << 31) - 1)]),
        (32 << 20, [(-3, 1 << 30), (-3, 32 << 20), (-1, (1 << 31) - 1)]),  # older versions of glibc
        (0, [(-3, 1 << 30), (-3, 32 << 20)]),
    ],
)
def test_memory_is_kept_as_far_as_the_c_library_can(most, expected, monkeypatch):
    asked = []

    def mallopt(option, value):
        asked.append((option, value))
        return int(option != -3 or value <= most)

    monkeypatch.setattr(library.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    library.keep_memory()
    assert asked == expected


def test_two_processes_at_once_both_get_a_whole_library(one):
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if library.load().one() == 1 else 1
            finally:
                os._exit(code)  # whatever happens, this process runs no further tests
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert library.load().one() == 1

"""`itera-run`: what it says to wrong use, and its exit codes."""

import subprocess
from pathlib import Path

import pytest

from itera_lite.bench.startup import find_program


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = find_program()
    if program is None:
        pytest.skip("itera-run isn't installed")
    return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True)


def test_the_file_that_is_refused_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    for name, message in (
        ("nothing.gguf", "can't be opened: No such file or directory"),
        ("text.gguf", "doesn't begin with 'GGUF'; expected a GGUF file"),
    ):
        done = run(name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"itera-run: error: {name}: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a GGUF file is needed"),
        (("a.gguf", "b"), "unexpected argument 'b'. Text with spaces needs quotes"),
        (("a.gguf", "--colour"), "unknown option --colour"),
        (("a.gguf", "--seed"), "--seed needs a value"),
        (("a.gguf", "--top-k=few"), "--top-k few: expected a number"),
        (("a.gguf", "--quiet=yes"), "--quiet takes no value"),
        (("a.gguf", "--context", "0"), "--context: expected 1 to 16777216 tokens"),
    ],
)
def test_wrong_use_is_said(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"itera-run: error: {message}\nSee: itera-run --help\n"


def test_help_and_version_need_no_model(tmp_path: Path) -> None:
    assert run("--help", cwd=tmp_path).stdout.startswith("itera-run MODEL.gguf [options]\n")
    version = run("--version", cwd=tmp_path)
    assert version.returncode == 0 and version.stdout.startswith("itera-run ")

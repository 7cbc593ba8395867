"""The command line: fast, honest exit codes, help for every option, no traceback for a user."""

import inspect
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from docstring_parser import parse

from itera_lite import __version__, cli
from itera_lite.errors import DataError, IteraError, UsageError

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "matplotlib", "tokenizers", "safetensors", "psutil", "tqdm")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def verb_function(target: str) -> Callable[..., object]:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Makes a function the verb `try`."""

    def install(function: Callable[..., object]) -> None:
        module = ModuleType("tests_verb")
        module.function = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tests_verb", module)
        monkeypatch.setitem(cli.VERBS, "try", ("tests_verb:function", "Try."))

    return install


def test_help_answers_in_under_300_ms() -> None:
    """In processor time: nothing here waits, and a busy machine must not fail the test."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("-m", "itera_lite", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3, seconds


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["trian"], []])
def test_without_a_verb_nothing_heavy_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys; from itera_lite.cli import main\n"
        "main(sys.argv[1:])\n"
        f"sys.exit(sorted(set({HEAVY!r}) & set(sys.modules)) or 0)"
    )
    done = run("-c", code, *arguments)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f" {name} ") for name in cli.VERBS if " " not in name]
    assert places == sorted(places), "the verbs stand in the order of the table"


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_documents_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    target, summary = cli.VERBS[name]
    function = verb_function(target)
    documented = parse(inspect.getdoc(function) or "")
    assert documented.short_description == summary
    helped = {p.arg_name for p in documented.params if (p.description or "").strip()}
    assert helped == set(inspect.signature(function).parameters), "each option has its help"

    assert cli.main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert "--" + parameter.name.replace("_", "-") in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--modle", "both"], "--modle"),
        (["train", "--model", "rnn"], '"itera", "transformer", "both"'),
        (["generate", "--max-tokens", "many"], "--max-tokens"),
        (["generate", "--max-tokens"], "--max-tokens"),
        (["generate", "once", "upon"], "unexpected argument 'upon'"),
        (["--fast"], "Expected one of: demo, data, train"),
    ],
)
def test_wrong_use_exits_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("itera: error: ")
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (IteraError("it is empty"), 1),
        (DataError("it is empty"), 1),
        (UsageError("it is empty"), 2),
        (PermissionError(13, "it is empty", "/there"), 1),
    ],
)
def test_a_users_mistake_shows_no_traceback(
    error: Exception,
    exit_code: int,
    verb: Callable[[Callable[..., object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    verb(fail)
    assert cli.main(["try"]) == exit_code
    err = capsys.readouterr().err
    assert err == f"itera: error: {error}\n"


def test_a_bug_shows_its_traceback_and_asks_for_a_report(
    verb: Callable[[Callable[..., object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    verb(fail)
    assert cli.main(["try"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in fail" in err
    assert "please report it" in err.splitlines()[-1]


def test_ctrl_c_exits_130(
    verb: Callable[[Callable[..., object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    verb(stop)
    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err == "\nitera: stopped\n"


def test_a_lone_dash_is_a_value(
    verb: Callable[[Callable[..., object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It means standard input wherever a file or a set is named."""

    def echo(file: Path, *, data: str = "", text: bool = True) -> None:
        print(file, data, text)

    verb(echo)
    for arguments in (["-", "--no-text", "--data", "-"], ["--data", "-", "--no-text", "-"]):
        assert cli.main(["try", *arguments]) == 0
        assert capsys.readouterr().out == "- - False\n"
    assert cli.main(["try", "-x"]) == 2


def test_a_return_value_is_not_an_exit_code(
    verb: Callable[[Callable[..., object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(lambda: {"bpb": 1.0})
    assert cli.main(["try"]) == 0
    assert capsys.readouterr().out == "", "a verb prints for people itself"


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    code = (
        "import sys; from types import ModuleType; from itera_lite import cli\n"
        "sys.modules['m'] = module = ModuleType('m'); module.f = lambda: print('text')\n"
        "cli.VERBS['try'] = ('m:f', 'Try.'); sys.exit(cli.main(['try']))"
    )
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_train_script_is_itera_train() -> None:
    script = run("train.py", "--help")
    assert script.returncode == 0, script.stderr
    assert script.stdout == run("-m", "itera_lite.cli", "train", "--help").stdout
    assert run("train.py", "--no-such-option").returncode == 2

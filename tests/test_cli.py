"""The command line: fast, honest exit codes, help for every option, no traceback for a user."""

import ast
import inspect
import os
import re
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
LIGHT = {"itera_lite", "cyclopts", "attr", "attrs", "docstring_parser", "rich", "typing_extensions"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)


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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["trian"], []])
def test_without_a_verb_little_is_imported(arguments: list[str]) -> None:
    """What is imported is nearly all of the time that help takes."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from itera_lite.cli import main\n"
        "main(sys.argv[1:])\n"
        "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"sys.exit(sorted(names - {LIGHT!r} - set(sys.stdlib_module_names)) or 0)"
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


def test_threads_of_pytorch_wait_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user wants them to wait otherwise."""
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        with monkeypatch.context() as patch:
            patch.setenv("OMP_WAIT_POLICY", given or "")
            if given is None:
                patch.delenv("OMP_WAIT_POLICY")
            assert cli.main(["--version"]) == 0
            assert os.environ["OMP_WAIT_POLICY"] == expected


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
    ("error", "exit_code", "told"),
    [
        (IteraError("it is empty"), 1, "it is empty"),
        (DataError("it is empty"), 1, "it is empty"),
        (UsageError("it is empty"), 2, "it is empty"),
        (PermissionError(13, "Permission denied", "/there"), 1, "/there: Permission denied"),
        (OSError(18, "Cross", "a", None, "b"), 1, "a -> b: Cross"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (OSError("no network"), 1, "no network"),
        (MemoryError(), 1, "not enough memory. Take"),
        (MemoryError("for an array"), 1, "not enough memory (for an array). Take"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough memory"),
        (RuntimeError("can't start new thread"), 1, "not enough memory (can't start new thread)"),
        (RecursionError("maximum recursion depth exceeded"), 1, "nested too deeply"),
    ],
)
def test_a_users_mistake_shows_no_traceback(
    error: Exception,
    exit_code: int,
    told: str,
    verb: Callable[[Callable[..., object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    verb(fail)
    assert cli.main(["try"]) == exit_code
    err = capsys.readouterr().err
    assert err.startswith("itera: error: ") and told in err
    assert err.count("\n") == 1 and "Errno" not in err


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
    verb: Callable[[Callable[..., object]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It means standard input where a text file or a set is named, and is refused elsewhere."""

    def echo(
        file: Path, *, data: str = "", text: bool = True, stop: str = "", folder: Path | None = None
    ) -> None:
        print(file, data, text)

    verb(echo)
    monkeypatch.setattr(cli, "DASHES", {("try", "file"), ("try", "data")})
    for arguments in (["-", "--no-text", "--data", "-"], ["--data", "-", "--no-text", "-"]):
        assert cli.main(["try", *arguments]) == 0
        assert capsys.readouterr().out == "- - False\n"
    assert cli.main(["try", "a", "--stop", "-"]) == 0, "a text, no file"
    assert cli.main(["try", "-x"]) == 2
    assert cli.main(["try", "a", "--folder", "-"]) == 2
    assert "'-' for folder: standard input can't be read here" in capsys.readouterr().err


def test_where_standard_input_is_taken_there_is_such_an_argument() -> None:
    for name, argument in cli.DASHES:
        assert argument in inspect.signature(verb_function(cli.VERBS[name][0])).parameters


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate", "-"], "itera generate -- -"),
        (["demo", "-"], "'-' for data: standard input can't be read here"),
        (["export", "-"], "'-' for checkpoint"),
        (["bench", "a", "-"], "'-' for checkpoints"),
        (["generate", "- once"], "itera generate -- '- once'"),
        (["generate", "-x"], "itera generate -- -x"),
        (["generate", "--temp", "1"], "Did you mean --temperature?"),
        (["generate", "--tepm=1"], "Did you mean --temperature?"),
        (["generate", "--", "hi", "--seed=1"], "'--seed' stands after --"),
        (["score", "--textfield", "a"], "Did you mean --text-field?"),
        (["generate", "--fast"], "unknown option '--fast'.\nSee: itera generate --help"),
        (["compress", "distill", "--studnt", "a"], "See: itera compress distill --help"),
        (["bench", "decode", "--type", "a"], "Did you mean --types?\nSee: itera bench decode"),
        (["compress", "--dat", "a"], "See: itera compress --help"),
        (["compress", "distil"], "Did you mean 'itera compress distill'?"),
        (["bench", "sedes"], "Did you mean 'itera bench seeds'?"),
        (["generate", "--checkpoint=~nobody-here/a"], "the home folder isn't known"),
        (["train", "--seed", "2.5"], "--seed 2.5: expected a whole number"),
        (["data", "--samples=2.5"], "--samples 2.5: expected a whole number"),
    ],
)
def test_advice(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert told in capsys.readouterr().err


def test_after_two_dashes_everything_is_a_value(
    verb: Callable[[Callable[..., object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def echo(*texts: str) -> None:
        print(*texts)

    verb(echo)
    assert cli.main(["try", "--", "-", "-x y", "--"]) == 0
    assert capsys.readouterr().out == "- -x y --\n"


def test_the_home_folder_is_put_in_for_every_path(
    verb: Callable[[Callable[..., object]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def echo(
        *folders: Path, teacher: list[Path] | None = None, data: str = "", prompt: str = ""
    ) -> None:
        print(*folders, *(teacher or ()), data, prompt)

    verb(echo)
    monkeypatch.setenv("HOME", "/home/me")
    options = ["--teacher=~/c", "--data", "~/d*.txt", "--prompt", "~/e"]
    assert cli.main(["try", "~/a", "~", "b/~", *options]) == 0
    assert capsys.readouterr().out == "/home/me/a /home/me b/~ /home/me/c /home/me/d*.txt ~/e\n"


def test_without_a_home_folder_the_cache_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from itera_lite import files

    monkeypatch.delenv("ITERA_CACHE", raising=False)
    monkeypatch.setattr(files.os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="set ITERA_CACHE"):
        files.cache_folder()
    with pytest.raises(UsageError, match="the home folder isn't known"):
        files.expand_home("~/a")
    monkeypatch.setenv("ITERA_CACHE", "/somewhere")
    assert files.cache_folder() == Path("/somewhere")


STREAMS = r"""
import sys
from types import ModuleType
from itera_lite import cli

def f(*, fail: bool = False, read: bool = False):
    print("h\u00f6her \u2603 \udcff")
    print("told \u2603", file=sys.stderr)
    if read:
        sys.stdin.buffer.read()
    if fail:
        raise cli.UsageError("wrong \u2603")

sys.modules["m"] = module = ModuleType("m")
module.f = f
cli.VERBS["try"] = ("m:f", "Try.")
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("arguments", "streams", "expected", "told"),
    [
        ("", ">&-", 1, "itera: error: standard output: Bad file descriptor\n"),
        ("", ">/dev/full", 1, "itera: error: standard output: No space left on device\n"),
        ("--help", ">/dev/full", 1, "itera: error: standard output: No space left on device\n"),
        ("", "2>&-", 0, ""),
        ("", "2>/dev/full", 0, ""),
        ("--fail", "2>/dev/full", 2, ""),
        ("", "<&- >&- 2>&-", 1, ""),
        ("--read", "<&-", 1, "itera: error: standard input: it is closed\n"),
    ],
)
def test_closed_and_full_streams(
    unbuffered: str, arguments: str, streams: str, expected: int, told: str
) -> None:
    if "/dev/full" in streams and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = f'"$1" -c "$2" try {arguments} {streams}'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, STREAMS],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=ROOT,
        timeout=600,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.returncode == expected, done.stderr
    assert done.stderr.endswith(told) and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_cannot_be_shown_are_replaced(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STREAMS, "try", "--fail"],
        capture_output=True,
        cwd=ROOT,
        timeout=600,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stdout == "höher \u2603 ?\n".encode(encoding, "replace")
    assert b"wrong" in done.stderr


NUMBERS = {
    "demo": "minutes=0,-1,nan,inf,1e300 seed=-1,9223372036854775808",
    "eval": "seq-len=0,-1 max-bytes=0,-5KB,nan,1M workers=0,-1,99999999999",
    "generate": (
        "max-tokens=0,-1 temperature=-1,nan,inf top-k=-1 top-p=0,2,nan min-p=-1,2,nan "
        "repetition-penalty=0,nan,inf presence-penalty=-2.5,3,nan frequency-penalty=-3,2.5,nan "
        "seed=-1,99999999999999999999 logit-bias.5=nan,inf"
    ),
    "score": "max-bits=0,-1,nan,inf window=0,-1 threads=0,-1,99999999999",
    "watch": "threads=0,-1,99999999999 false-alarms=0%,100%,-1%,nan%,1",
    "serve": (
        "port=-1,65536 max-streams=0,-1,5000 max-waiting=-1,5000 max-body=0,nan cache=-1,nan "
        "timeout=0,-1,nan,inf"
    ),
    "bench serve": "streams=0,-1,5000 seconds=0,nan,inf rounds=0,-1 max-tokens=0,-1",
    "bench": "repeats=0,-1 threads=0,-1 watts=0,-1,nan,inf",
    "bench data": "vocab-size=5,99999999 workers=0,-1 repeats=0,-1",
    "bench decode": "repeats=0,-1,99999999999999999999 context=0,-1 long-context=-1,5",
    "bench score": "repeats=0 documents=0,-1 length=0,-1 threads=0,-1",
    "bench complete": "offered=0,-1,101 max-bytes=0,-5KB,nan",
    "bench filter": "lines=0,19,-1 repeats=0,-1 seed=-1,9223372036854775808",
    "bench playground": "repeats=0,-1 tokens=0,-1",
    "bench train": "vocab-size=0,-1 batch-size=0 seq-len=0,-1 workers=0,-1 repeats=0 steps=0,-1",
    "bench scaling": "vocab-size=0,-1 batch-size=0 seq-len=0,-1 most=0,-1 repeats=0 steps=0,-1",
    "bench seeds": (
        "seeds=0,1,-1 first-seed=-1,9223372036854775806 minutes=0,nan,inf tokens=0,-3M,nan "
        "vocab-size=5 workers=0,-1"
    ),
    "compress": (
        "target-bytes=0,1M,nan max-loss=1,-1%,nan% minutes=-1,nan,inf seed=-1 workers=0,-1"
    ),
    "compress distill": (
        "minutes=0,nan,inf tokens=0,x top-k=0,-1 temperature=0,nan,inf mix=0,-1,2,nan "
        "vocab-size=5,99999999 seed=-1 patience=-1 workers=0,-1"
    ),
    "compress vocab": (
        "size=5,99999999 max-loss=1 minutes=-1,nan,inf tokens=0,nan seed=-1 workers=0"
    ),
    "compress experts": "keep=0,-1 max-loss=1 minutes=-1,nan,inf tokens=0,nan seed=-1 workers=0",
    "compress quantize": "max-bytes=0,1M minutes=-1,nan tokens=0 mix=0,2,nan seed=-1 workers=0",
    "ladder": "minutes=0,nan,inf size=5,99999999 seeds=0,-1 repeats=0,-1 workers=0,-1",
}
NEEDED = {
    "score": ["x.txt"],
    "compress": ["x", "--data", "x"],
    "compress distill": ["--teacher", "x", "--student", "pico", "--data", "x"],
    **{f"compress {name}": ["x", "--data", "x"] for name in ("vocab", "experts", "quantize")},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range_are_wrong_use(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is loaded, made or measured: there is nothing here to load."""
    monkeypatch.chdir(tmp_path)
    for part in NUMBERS[name].split():
        option, _, values = part.partition("=")
        for value in values.split(","):
            needed = list(NEEDED.get(name, ()))
            if name == "bench seeds" and option not in ("minutes", "tokens"):
                needed += ["--tokens", "1M"]
            if name == "compress" and option not in ("target-bytes", "max-loss"):
                needed += ["--max-loss", "1%"]
            code = cli.main([*name.split(), *needed, f"--{option}={value}"])
            err = capsys.readouterr().err
            assert code == 2, f"--{option}={value}: {err}"
            assert f"--{option}" in err and "Traceback" not in err, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "1.5"])
def test_workers_have_the_name_of_an_earlier_version_too(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = []
    for option in ("--workers", "--threads"):
        assert cli.main(["train", option, value]) == 2
        messages.append(capsys.readouterr().err.partition(": expected")[2])
    assert messages[0] == messages[1] and "a whole number" in messages[0]


def test_every_number_is_tried() -> None:
    """What `test_numbers_out_of_range_are_wrong_use` leaves out is no number."""
    others = {"data", "train"}  # they have tests of their own
    for name in (
        set(cli.VERBS) - others - {"export", "report", "playground", "check", "push", "pull"}
    ):
        function = verb_function(cli.VERBS[name][0])
        tried = {part.partition("=")[0].split(".")[0] for part in NUMBERS[name].split()}
        for parameter in inspect.signature(function).parameters.values():
            kind = str(parameter.annotation)
            named = parameter.name.replace("_", "-")
            if kind.split(" ")[0] in ("int", "float", "WorkerCount") or named in (
                "max-bytes",
                "tokens",
            ):
                elsewhere = (name, named) == ("compress distill", "seeds")  # with --compare
                assert named in tried or elsewhere, (name, named)


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "eval", "bench", "bench decode", "bench score", "bench train", "ladder"),
        "bench serve",
        "bench seeds --tokens 1M",
    ],
)
def test_where_results_go_is_looked_at_before_the_work(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The folder is a file; what would be loaded or read isn't there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "checkpoints" / "itera_lite_tiny").mkdir(parents=True)
    data = ["--data", "nowhere"] if command in ("demo", "eval", "ladder") else []
    assert cli.main([*command.split(), *data, "--results", "file/results"]) == 1
    err = capsys.readouterr().err
    assert "file/results/" in err and "can't be written: Not a directory" in err
    assert {path.name for path in tmp_path.iterdir()} == {"file", "checkpoints"}


# Options of other programs, and a part of one of ours, that stand in strings of the package.
FOREIGN = {"--cpus", "--porcelain", "--untracked-files", "--error-unmatch", "--no-"}
FOREIGN |= {"--nproc-per-node", "--max-restarts", "--local-addr"}  # torchrun's
FOREIGN |= {"--rdzv-backend", "--rdzv-endpoint"}
FOREIGN |= {"--arpa", "--discount"}  # lmplz's
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def options_of(name: str) -> set[str]:
    """The options of a verb, as the command line has them."""
    options = {"--help"}
    for parameter in inspect.signature(verb_function(cli.VERBS[name][0])).parameters.values():
        option = parameter.name.replace("_", "-")
        options |= {f"--{option}"} | (
            {f"--no-{option}"} if "bool" in parameter.annotation else set()
        )
    return options


def test_advice_names_options_that_exist() -> None:
    """In every message and docstring: a known option, and after `itera VERB` one of that verb."""
    options = {name: options_of(name) for name in cli.VERBS}
    known = set().union(*options.values()) | FOREIGN | {"--version"}
    by_length = sorted(cli.VERBS, key=len, reverse=True)
    command = re.compile(rf"itera ({'|'.join(by_length)})\b([^`\n]*)")
    found = set()
    for path in sorted((ROOT / "itera_lite").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            named = set(OPTION.findall(node.value))
            assert named <= known, f"{where} names {named - known}"
            for verb, rest in command.findall(node.value):
                wrong = set(OPTION.findall(rest)) - options[verb]
                assert not wrong, f"{where}: `itera {verb}` has no {wrong}"
            found |= named
    assert {"--data", "--prefix", "--resume"} <= found, "the search finds what is there"


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
            timeout=600,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_train_script_is_itera_train() -> None:
    script = run("train.py", "--help")
    assert script.returncode == 0, script.stderr
    assert script.stdout == run("-m", "itera_lite.cli", "train", "--help").stdout
    assert run("train.py", "--no-such-option").returncode == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [("bench", True), ("bench decode", True), ("eval", False), ("bench --help", False)],
)
def test_a_busy_machine_is_said_in_the_first_line(command, said, capsys, monkeypatch, tmp_path):
    from itera_lite.machine import load

    readings = iter([load.Counters(0.0, 0.0, 0.0), load.Counters(1.0, 1.2, 0.0)])
    monkeypatch.setattr(load, "read_counters", lambda: next(readings, None))
    monkeypatch.setattr(load, "usable_cores", lambda: 2)
    monkeypatch.chdir(tmp_path)
    cli.main([*command.split(), "nowhere"])
    first = capsys.readouterr().out.partition("\n")[0]
    busy = "The machine is busy: other programs use 1.2 of 2 cores."
    assert first.startswith(busy) == said

"""What README and docs say is so: commands run and print that, paths and links are there."""

import ast
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from itera_lite import cli
from itera_lite.report.build import to_markdown
from itera_lite.report.results import load_results
from tests.test_cli import OPTION, options_of
from tools.readme import PAGES, renew

ROOT = Path(__file__).parents[1]
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted(ROOT.glob("docs/*.md")),
        ROOT / "itera_lite/models/README.md",
    )
}
README = TEXTS["README.md"]

# The commands are run for real, in the README's own words but for these smaller budgets.
SMALLER = {
    "--tokens 1M": "--data my_texts --tokens 4096",
    "--minutes 10": "--tokens 4096 --workers 1",
    "--epochs 5": "--tokens 8192 --workers 1",
    "itera bench": "itera bench --quick --repeats 1",
}
SMALLER_DOCS = {  # on the pages of docs/
    "--data tinystories": "--data my_texts",
    "itera data tinystories": "itera data my_texts",
    "--config small --minutes 30": "--config pico --tokens 4096 --workers 1 --evaluations 1",
    "--params 3M": "--params 200K",
    "--epochs 5": "--tokens 4096 --workers 1 --evaluations 1",
    "--config pico --minutes 5": "--config pico --tokens 4096 --workers 1 --evaluations 1",
    "--minutes 1": "--tokens 4096 --workers 1 --evaluations 1",
    "--tokens 20M": "--tokens 4096 --workers 1 --evaluations 1 --overwrite",
}
NOT_RUN = {  # commands, and why
    "itera check checkpoints/stories": "of what `itera pull` fetches",
    "itera pull": "fetches from the Hub; tests/hub fetches from a stand-in",
    "itera push": "sends to the Hub; tests/hub sends to a stand-in",
    "itera bench filter": "takes minutes; tests/bench/test_filter.py measures so",
    "itera bench serve": "takes minutes; tests/bench/test_serving.py measures so",
    "itera bench scaling": "takes minutes; tests/bench/test_scaling.py measures so",
    "itera serve": "runs until it is stopped; tests/serve starts it",
    "itera watch": "runs until it is stopped; tests/engine/test_watch.py starts it",
    "itera ladder": "takes minutes; tests/studies/test_ladder.py runs it",
    "itera compress": "takes minutes; tests/compress and tests/commands/test_compress.py run it",
}
RUN_TOO = {"cc", "./story"}  # other programs that docs' commands need, where a compiler is there
WRITTEN_LATER = {"native/fuzz/cases", "tests/fuzz/cases", "reports/efficiency_report.md"}
OTHER_PROGRAMS = {
    "curl",
    "lm_eval",
    "openssl",
    "llama-completion",
    "llama-server",
    "ollama",
    "lms",
    "printf",
    "cmake",
    "tail",
    "gh",
    "pip",
    "pipx",
}


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def sessions() -> list[tuple[str, str]]:
    """(command, what it prints) of the README's console blocks."""
    parts = [part for block in blocks("console") for part in re.split(r"^\$ ", block, flags=re.M)]
    return [tuple(part.split("\n", 1)) for part in parts if part]


def commands(page: str) -> list[str]:
    return [line for block in blocks("sh", page) for line in block.splitlines() if line.strip()]


def itera_arguments(words: list[str]) -> list[str] | None:
    """The arguments of `itera` in a command, however it is started."""
    match words:
        case ["itera", *rest]:
            return rest
        case ["python", "train.py", *rest]:
            return ["train", *rest]
        case ["python", "generate_report.py", *rest]:
            return ["report", *rest]
        case ["python", "-m", "itera_lite.torchrun", "--nproc-per-node", number, *rest]:
            assert int(number) > 1
            return rest
    return None


@pytest.mark.parametrize(
    "command",
    [command for command, _ in sessions()] + [c for page in TEXTS.values() for c in commands(page)],
)
def test_every_command_is_one_that_exists(command: str) -> None:
    """Verb, options and the type of each value are checked by the real command line."""
    words = shlex.split(command, comments=True)
    arguments = itera_arguments(words)
    if arguments is not None:
        cli.build_app(arguments).parse_args(arguments, exit_on_error=False, print_error=False)
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file()
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["pip", "install"]:
        extra = re.search(r"\[(\w+)\]", words[-1])
        if extra:
            assert re.search(rf"^{extra[1]} = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    else:
        assert words[0] in OTHER_PROGRAMS | RUN_TOO or (ROOT / words[0]).is_file(), (
            f"unknown: {command}"
        )


@pytest.mark.parametrize("name", TEXTS)
def test_commands_in_sentences_have_such_options(name: str) -> None:
    """`itera VERB --option` between backquotes, which may leave out what a verb needs."""
    verbs = sorted(cli.VERBS, key=len, reverse=True)
    for verb, rest in re.findall(rf"`itera\s+({'|'.join(verbs)})\b([^`]*)`", TEXTS[name]):
        wrong = set(OPTION.findall(rest)) - options_of(verb)
        assert not wrong, f"`itera {verb}` has no {wrong}"


@pytest.mark.parametrize("name", TEXTS)
def test_paths_lead_somewhere(name: str) -> None:
    """Links, with the heading that they point at; and our own paths between backquotes."""
    here = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if target.startswith(("http:", "https:")):
            continue
        path, _, heading = target.partition("#")
        found = here / path if path else ROOT / name
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert heading in map(anchor, titles), target
    roots = "itera_lite|native|tests|docs|tools|experiments|results|reports|utils"
    for path in re.findall(rf"`((?:{roots})/[\w./*-]*)`", TEXTS[name]):
        pattern = re.sub(r"\b[A-Z]{3,}\b", "*", path.rstrip("/"))  # SET, NAME: anything
        assert path in WRITTEN_LATER or list(ROOT.glob(pattern)), path


def anchor(title: str) -> str:
    """The id that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", TEXTS)
def test_python_examples_import_what_exists(name: str) -> None:
    for example in blocks("python", TEXTS[name]):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), example


def smaller(command: str, budgets: dict[str, str] = SMALLER) -> str:
    for plain, small in budgets.items():
        command = command.replace(plain, small)
    return command


def is_run(command: str) -> bool:
    """Whether the test runs it: ours, and what ours needs, unless a reason is given."""
    ours = itera_arguments(shlex.split(command, comments=True)) is not None
    return (ours or command.split()[0] in RUN_TOO) and not any(part in command for part in NOT_RUN)


def alike(*texts: str) -> float:
    """0 to 1, but for numbers, which differ from run to run."""
    masked = (re.sub(r"\d[\d.,]*", "0", " ".join(text.split())) for text in texts)
    return SequenceMatcher(None, *masked, autojunk=False).ratio()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "my_texts"
    folder.mkdir()
    for source in sorted(Path(inspect.__file__).parent.glob("*.py"))[:24]:
        shutil.copy(source, folder / f"{source.stem}.txt")
    (folder / "one.txt").write_text("A line is a document.\nSo is this one.\n")
    return folder


def run(
    command: str, capsys: pytest.CaptureFixture[str], budgets: dict[str, str]
) -> tuple[str, str]:
    """What a command of ours prints on standard output and standard error."""
    arguments = itera_arguments(shlex.split(smaller(command, budgets), comments=True))
    assert arguments is not None
    capsys.readouterr()
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    assert code == 0, f"{command}\n{out}{err}"
    return out, err


def test_the_commands_run(
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of the README's `itera` commands, then its Python example, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(texts, "my_texts")
    assert all(any(plain in c for c in (*dict(sessions()), *commands(README))) for plain in SMALLER)
    assert len(sessions()) == 3
    for command, shown in sessions():
        out, err = run(command, capsys, SMALLER)  # the README leaves progress bars out
        # The tests have one core, and nothing to choose among.
        shown = re.sub(r"^.* workers: .*\n", "", shown, flags=re.MULTILINE)
        assert max(alike(shown, out), alike(shown, out + err)) > 0.9, f"{command}\n{out}{err}"

    ours = [c for c in commands(README) if is_run(c)]
    assert len(ours) >= 10
    for command in ours:
        run(command, capsys, SMALLER)
    for written in (
        "checkpoints/itera_lite_tiny/model.safetensors",
        "checkpoints/itera_lite_tiny/model-q8_0.gguf",
        "results/itera_lite_tiny_metrics.csv",
        "results/itera_lite_tiny_eval.json",
        "results/itera_lite_tiny_benchmark.json",
        "reports/efficiency_report.md",
        "reports/efficiency_report.html",
    ):
        assert (tmp_path / written).stat().st_size > 0
    assert any(path.stat().st_size for path in (tmp_path / "filtered").glob("*.txt.jsonl"))

    (example,) = blocks("python")
    capsys.readouterr()
    exec(example, {})
    assert len(capsys.readouterr().out) > 20


RUN_PAGES = [
    page for page in TEXTS if page != "README.md" and any(map(is_run, commands(TEXTS[page])))
]


@pytest.fixture(scope="module")
def checkpoint(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model under the usual name, hardly trained."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ITERA_CACHE", os.environ["ITERA_CACHE"])
        size = ["--model", "itera", "--config", "pico", "--tokens", "4096", "--workers", "1"]
        name = ["--name", "itera_lite_tiny", "--data", str(texts)]
        assert cli.main(["train", *size, *name]) == 0
        assert cli.main(["export", "checkpoints/itera_lite_tiny"]) == 0
    return folder / "checkpoints/itera_lite_tiny"


@pytest.mark.parametrize("page", RUN_PAGES)
def test_the_commands_of_a_page_run(
    page: str,
    texts: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the order of the page, in a folder that has the files that they name."""
    monkeypatch.chdir(tmp_path)
    for name in ("my_texts", "my-notes"):
        shutil.copytree(texts, name)
    shutil.copytree(checkpoint, "checkpoints/itera_lite_tiny")
    Path("checkpoints/itera_lite_tiny/model-q8_0.gguf").rename("model-q8_0.gguf")
    Path("corpus.txt").write_text("A line is a document.\nSo is this one.\n")
    log = "".join(path.read_text() for path in sorted(Path("my_texts").glob("*.txt")))
    Path("yesterday.log").write_text(log)
    Path("corpus.jsonl").write_text('{"text": "A line is a document."}\n')
    for command in filter(is_run, commands(TEXTS[page])):
        if command.split()[0] not in RUN_TOO:
            run(command, capsys, SMALLER_DOCS)
        elif shutil.which("cc"):
            done = subprocess.run(shlex.split(command), capture_output=True)
            assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"


def test_every_smaller_budget_is_one_of_a_page() -> None:
    for plain in (*SMALLER_DOCS, *NOT_RUN):
        assert any(plain in command for page in TEXTS for command in commands(TEXTS[page])), plain


@pytest.mark.parametrize("name", ["tinystories", "wikitext-2"])
def test_committed_report_is_of_the_committed_results(name: str, monkeypatch) -> None:
    """Its words; the plots depend on the machine's fonts."""
    monkeypatch.chdir(ROOT)
    folder = Path("reports", name)
    plots = {path.stem: path for path in folder.glob("*.png")}
    written = to_markdown(load_results(Path("results", name)), plots)
    assert written == (folder / "efficiency_report.md").read_text("utf-8"), (
        f"make it again: itera report --results results/{name} --reports reports/{name}"
    )


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_are_those_of_the_committed_results(name: str, tmp_path: Path) -> None:
    """`make readme` would change nothing."""
    page = tmp_path / "page.md"
    page.write_text(TEXTS[name])
    renew(page)
    assert page.read_text() == TEXTS[name]
    assert "<!-- table: " in TEXTS[name]


def test_the_readme_shows_real_output() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", README)
    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)
    table = README.partition("<!-- table: summary ")[2].partition("<!-- end -->")[0]
    assert len(re.findall(r"^\|", table, re.MULTILINE)) == 2 + 7

"""What the README says is so: its commands run, its file tree is the tree, its links work."""

import inspect
import re
import shlex
import shutil
from pathlib import Path

import pytest

from itera_lite import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# The chain is run for real, in the README's own words but for these smaller budgets.
SMALLER = {
    "--minutes 10": "--tokens 4096 --threads 1",
    "itera bench": "itera bench --quick --repeats 1",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


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


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_that_exists(command: str) -> None:
    """Verb, options and the type of each value are checked by the real command line."""
    words = shlex.split(command)
    arguments = itera_arguments(words)
    if arguments is not None:
        cli.build_app(arguments).parse_args(arguments, exit_on_error=False, print_error=False)
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file()
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert words[:2] == ["pip", "install"], f"don't know how to check: {command}"
        extra = re.search(r"\[(\w+)\]", words[-1])
        if extra:
            assert re.search(rf"^{extra[1]} = \[", (ROOT / "pyproject.toml").read_text(), re.M)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http:", "https:", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_the_chain_for_your_own_text_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`itera data ... itera report`, then the Python example, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my_texts"
    folder.mkdir()
    for source in sorted(Path(inspect.__file__).parent.glob("*.py"))[:24]:
        shutil.copy(source, folder / f"{source.stem}.txt")

    chain = next(block for block in blocks("sh") if "itera data my_texts" in block)
    for plain, small in SMALLER.items():
        assert plain in chain
        chain = chain.replace(plain, small)
    for line in chain.splitlines():
        arguments = itera_arguments(shlex.split(line))
        assert arguments is not None
        assert cli.main(arguments) == 0, f"{line}\n{capsys.readouterr().err}"

    for written in (
        "checkpoints/itera_lite_tiny/model.safetensors",
        "results/itera_lite_tiny_metrics.csv",
        "results/itera_lite_tiny_eval.json",
        "results/itera_lite_tiny_benchmark.json",
        "reports/efficiency_report.md",
        "reports/efficiency_report.html",
    ):
        assert (tmp_path / written).stat().st_size > 0

    (export,) = [line for line in commands() if line.startswith("itera export ")]
    assert cli.main(shlex.split(export)[1:]) == 0
    for example in blocks("python"):
        capsys.readouterr()
        exec(example, {})
        assert len(capsys.readouterr().out) > 20


TABLES = re.findall(r"<!-- table: (engine |ladder )?(\S+) -->\n", README)


def test_the_tables_are_those_of_the_committed_results(tmp_path: Path) -> None:
    """`make readme` would change nothing."""
    from itera_lite.report.table import renew

    for folder in {folder for _, folder in TABLES}:
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(ROOT / folder)
    page = tmp_path / "README.md"
    page.write_text(README)
    renew(page)
    assert page.read_text() == README


def test_there_are_tables_and_pictures_of_real_output() -> None:
    assert len(TABLES) >= 3
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)

"""Files that are damaged, another program's, or somebody's own: named or left out, no traceback."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from itera_lite.cli import main
from itera_lite.commands.report import report, to_markdown
from itera_lite.errors import IteraError, OutputError
from itera_lite.report.plots import draw, plot_all_metrics
from itera_lite.report.results import KINDS, load_results
from itera_lite.report.table import comparison_table
from tests.other_user import as_other_user, shared_folder

from .reading import ITERA, TRANSFORMER, edit, markdown
from .synthetic import write_ladder, write_results, write_seeds

ROOT = Path(__file__).parents[2]
BAD = (None, "x", [], {}, 1, [1], {"a": 1}, [[1, 2, 3]], math.nan, -1, True, 10**30)


def places(value, at=()):
    """The places of a JSON value, two items a list."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for key, part in items:
        if isinstance(part, dict | list):
            yield from places(part, (*at, key))
        else:
            yield (*at, key)


def spoiled(text: str, at: tuple, bad) -> str:
    value = json.loads(text)
    holder = value
    for key in at[:-1]:
        holder = holder[key]
    if not at:
        return json.dumps(bad)
    holder[at[-1]] = bad
    return json.dumps(value)


def test_a_wrong_kind_anywhere_never_is_a_traceback(tmp_path):
    write_results(tmp_path)
    write_seeds(tmp_path)
    write_ladder(tmp_path)
    draw_lots = random.Random(0)
    cases = [
        (path, at, bad)
        for path in sorted(tmp_path.glob("*.json"))
        for at in places(json.loads(path.read_text()))
        for bad in BAD
    ]
    for number, (path, at, bad) in enumerate(draw_lots.sample(cases, 60)):
        whole = path.read_text()
        path.write_text(spoiled(whole, at, bad))
        try:
            results = load_results(tmp_path)
        except IteraError:
            path.write_text(whole)
            continue
        text = to_markdown(results, {})
        comparison_table(results)
        if number == 0:
            draw(results, tmp_path / "plots")
        assert text.startswith("# Efficiency report"), (path.name, at, bad)
        path.write_text(whole)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("budget_summary.json", '{"rent": 100}'),
        ("budget_eval.json", "[1, 2]"),
        ("budget_benchmark.json", "3"),
        ("budget_metrics.csv", "month,rent\n1,100\n"),
        ("budget_metrics.csv", ""),
        ("budget.json", "{"),
        ("notes_summary.json", '{"name": ["a"]}'),
    ],
)
def test_somebodys_own_files_are_left_out_and_named(
    name, text, results, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("itera_lite.commands.report.draw", lambda *_: {})
    before = markdown(results)
    (results / name).write_text(text)
    (results / "folder_summary.json").mkdir()
    assert markdown(results) == before
    assert main(["report", "--results", str(results), "--reports", str(tmp_path / "r")]) == 0
    told = capsys.readouterr().err
    assert (name in told) == (name != "budget.json")


def test_a_part_of_another_kind_is_left_out_and_named(results, capsys):
    edit(results / f"{ITERA}_summary.json", lambda r: r.update(dataset=[1], samples={"a": 1}))
    found = load_results(results)
    (note,) = found.notes
    assert f"{ITERA}_summary.json" in note and "dataset, samples" in note
    assert "Text:" in to_markdown(found, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (f"{ITERA}_summary.json", ""),
        (f"{ITERA}_summary.json", "[" * 50_000),
        (f"{ITERA}_metrics.csv", "step\nmany\n"),
        ("ladder.json", '{"rungs": 3}'),
        ("seeds.json", '"text"'),
    ],
)
def test_damaged_files_are_named(name, text, results, tmp_path, capsys):
    (results / name).write_text(text)
    assert main(["report", "--results", str(results), "--reports", str(tmp_path / "r")]) == 1
    error = capsys.readouterr().err
    assert name in error and "Traceback" not in error
    assert not (tmp_path / "r").exists()


def test_an_empty_folder_says_what_to_run(tmp_path):
    (tmp_path / "results").mkdir()
    with pytest.raises(IteraError, match="itera demo"):
        plot_all_metrics(tmp_path / "results", tmp_path / "reports")
    command = [sys.executable, ROOT / "generate_report.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "itera demo" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "reports").exists()


def test_a_report_that_cannot_be_written_is_said_before_the_work(results, tmp_path, monkeypatch):
    monkeypatch.setattr("itera_lite.commands.report.draw", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"'.*file' can't be written"):
        report(results=results, reports=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with shared_folder() as folder:
        closed = folder / "reports"
        closed.mkdir(mode=0o555)
        inside = write_results(folder / "results")
        with as_other_user(), pytest.raises(OutputError, match="Permission denied"):
            report(results=inside, reports=closed)


def test_results_that_may_not_be_read_are_not_called_missing():
    with shared_folder() as folder:
        write_results(folder / "results")
        (folder / "results" / f"{ITERA}_eval.json").chmod(0)
        with as_other_user(), pytest.raises(IteraError, match=r"_eval.json' can't be.*Permission"):
            load_results(folder / "results")
        (folder / "results").chmod(0)
        with as_other_user(), pytest.raises((IteraError, OSError), match="Permission denied"):
            load_results(folder / "results")


def test_size_and_family_are_read_from_the_files(results):
    """A compressed model of whatever name isn't the preset that its name ends with."""
    for kind in KINDS:
        for old, new in ((ITERA, "my_small"), (TRANSFORMER, "itera_lite_small")):
            path = results / f"{old}_{kind}"
            path.rename(results / f"{new}_{kind}")
    itera, transformer = load_results(results).models
    assert (itera.name, itera.family, itera.size) == ("my_small", "itera", "tiny")
    assert (transformer.name, transformer.family) == ("itera_lite_small", "transformer")
    assert load_results(results).pairs == [(itera, transformer)]
    edit(results / "my_small_summary.json", lambda r: r.update(compress={"verb": "quantize"}))
    found = load_results(results)
    sizes = {model.name: model.size for model in found.models}
    assert sizes == {"my_small": "tiny, compressed", "itera_lite_small": "tiny"}
    assert found.pairs == []


def test_older_files_say_the_size_by_their_shape(results):
    from itera_lite.config import ModelConfig, preset, preset_of

    shape = preset("itera", "pico", 512)
    assert preset_of(shape.to_dict()) == "pico"
    assert preset_of(shape.replace(n_experts=5).to_dict()) is None
    assert preset_of({"family": "itera"}) is preset_of({}) is preset_of({"family": 3}) is None
    assert preset_of(ModelConfig("transformer", "a", 300, 32, d_ff=32).to_dict()) is None

    def older(record):
        for key in ("preset", "family"):
            record.pop(key)
        record["config"] = shape.to_dict()

    for kind in KINDS:
        if kind not in ("summary.json", "metrics.csv"):
            (results / f"{ITERA}_{kind}").unlink()
    edit(results / f"{ITERA}_summary.json", older)
    model = next(m for m in load_results(results).models if m.name == ITERA)
    assert (model.family, model.size) == ("itera", "pico")
    edit(results / f"{ITERA}_summary.json", lambda r: r["config"].update(n_experts=5))
    model = next(m for m in load_results(results).models if m.name == ITERA)
    assert model.size == "1.4 M"

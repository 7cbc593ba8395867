"""Check that damaged, old and foreign files are left out and named, and the committed layout."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from itera_lite.cli import main
from itera_lite.commands.report import report
from itera_lite.errors import IteraError, OutputError
from itera_lite.records import Run
from itera_lite.report.build import to_markdown
from itera_lite.report.plots import draw, plot_all_metrics
from itera_lite.report.results import load_results
from itera_lite.report.table import comparison_table
from tests.other_user import as_other_user, shared_folder

from .reading import FILES, ITERA, TRANSFORMER, edit, markdown
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
    write_ladder(tmp_path, in_llama=True)
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
        ("old_summary.json", '{"name": "old", "family": "itera", "valid": {"bpb": 0.7}}'),
        ("new_summary.json", '{"kind": "summary", "version": 99}'),
        ("deep.json", "[" * 50_000),
        ("wide_metrics.csv", "step\nmany\n"),
    ],
)
def test_somebodys_own_files_are_left_out_and_named(
    name, text, results, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("itera_lite.report.build.draw", lambda *_: {})
    before = markdown(results)
    (results / name).write_text(text)
    (results / "folder_summary.json").mkdir()
    assert markdown(results) == before
    assert main(["report", "--results", str(results), "--reports", str(tmp_path / "r")]) == 0
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", '{"rungs": 3}', '{"kind": "ladder", "version": 1}'])
def test_a_damaged_file_is_named_and_the_rest_is_reported(text, results, tmp_path, capsys):
    for name in (f"{ITERA}_summary.json", "ladder.json", "seeds.json"):
        (results / name).write_text(text)
    found = load_results(results)
    assert [note.split("'")[1].rpartition("/")[2] for note in found.left_out] == [
        f"{ITERA}_summary.json", "ladder.json", "seeds.json",
    ]  # fmt: skip
    assert found.ladder is None and found.seeds == []
    assert to_markdown(found, {}).startswith("# Efficiency report")
    for path in results.iterdir():
        path.write_text(text)
    assert main(["report", "--results", str(results), "--reports", str(tmp_path / "r")]) == 1
    error = capsys.readouterr().err
    assert f"Left out: '{results}" in error and "Traceback" not in error
    assert not (tmp_path / "r").exists()


def test_a_second_record_about_a_model_is_named(results):
    (results / "copy.json").write_bytes((results / f"{TRANSFORMER}_summary.json").read_bytes())
    (note,) = load_results(results).left_out
    assert f"{TRANSFORMER}_summary.json" in note and "copy.json" in note


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
    monkeypatch.setattr("itera_lite.report.build.draw", lambda *_: pytest.fail("work was done"))
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


def test_size_and_family_are_fields_of_the_records(results):
    """A compressed model of whatever name isn't the preset that its name ends with."""
    for kind in FILES[1:]:
        for old, new in ((ITERA, "my_small"), (TRANSFORMER, "itera_lite_small")):
            path = results / f"{old}_{kind}"
            name = {"name": new}
            if kind == "decode.json":
                edit(path, lambda r, name=name: r["decoding"]["model"].update(name))
            else:
                edit(path, lambda r, name=name: r["model"].update(name))
            path.rename(results / f"{'x' if old == ITERA else 'y'}-{kind}")
    for log in results.glob("*.csv"):
        log.unlink()
    itera, transformer = load_results(results).models
    assert (itera.name, itera.family, itera.size) == ("my_small", "itera", "tiny")
    assert (transformer.name, transformer.family) == ("itera_lite_small", "transformer")
    assert load_results(results).pairs == [(itera, transformer)]
    edit(results / "x-summary.json", lambda r: r["model"].update(made="compressed"))
    found = load_results(results)
    sizes = {model.name: model.size for model in found.models}
    assert sizes == {"my_small": "tiny, compressed", "itera_lite_small": "tiny"}
    assert found.pairs == []


def test_a_model_of_no_preset_is_named_by_its_parameters(results):
    from itera_lite.config import ModelConfig, preset, preset_of

    shape = preset("itera", "pico", 512)
    assert preset_of(shape.to_dict()) == "pico"
    assert preset_of(shape.replace(n_experts=5).to_dict()) is None
    assert preset_of({"family": "itera"}) is preset_of({}) is preset_of({"family": 3}) is None
    assert preset_of(ModelConfig("transformer", "a", 300, 32, d_ff=32).to_dict()) is None
    for kind in FILES[2:]:
        (results / f"{ITERA}_{kind}").unlink()
    edit(results / f"{ITERA}_summary.json", lambda r: r["model"].update(size=None))
    model = next(m for m in load_results(results).models if m.name == ITERA)
    assert model.size == "1.4 M"


def test_the_committed_layout_is_read_as_the_user_s(results, tmp_path):
    committed, before = tmp_path / "set", markdown(results).split("## 12.")[0]
    for study, seed in (("models", 0), ("ladder", 0), ("ladder", 1)):
        for name in (ITERA, TRANSFORMER):
            run = Run(study=study, stage=name, seed=seed)
            for model in load_results(results).models:
                for part, record in model.records.items():
                    if model.name == name:
                        setattr(run, part, record)
            path = run.write(committed / study / name / f"{seed}.json")
            log = results / f"{name}_metrics.csv"
            path.with_suffix(".csv").write_bytes(log.read_bytes())
    found = load_results(committed)
    assert [model.name for model in found.models] == [ITERA, TRANSFORMER]
    assert markdown(committed).split("## 12.")[0].replace("set", "results") == before
    study = load_results(committed / "ladder").models
    assert [m.name for m in study if m.family == "itera"] == [
        f"{ITERA}, seed 0",
        f"{ITERA}, seed 1",
    ]
    (committed / "models" / ITERA / "0.json").write_text("{}")
    assert f"models/{ITERA}/0.json" in load_results(committed).left_out[0]


def test_the_committed_results_can_be_read():
    for folder in (ROOT / "results").iterdir():
        if folder.is_dir():
            assert load_results(folder).left_out == []

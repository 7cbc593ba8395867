"""Check that the committed results are filed whole, indexed and readable."""

import json
from pathlib import Path

import pytest

from itera_lite.records import HeldOut, Run, Seeds, Summary, TrainingSpeed
from tests.report.synthetic import provenance, write_results, write_seeds
from tools.results import ROOT, add, index


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif value is not None:
        yield value


def test_records_are_filed_whole(tmp_path: Path) -> None:
    folder, target = write_results(tmp_path / "results"), tmp_path / "set"
    write_seeds(folder)
    changed = Summary.read(folder / "transformer_tiny_summary.json")
    changed.provenance.git_dirty = True
    changed.write(folder / "transformer_tiny_summary.json")
    add(folder, target, "models")
    for path in folder.glob("*.json"):
        old = json.loads(path.read_text())
        if path.name == "seeds.json":
            assert Seeds.read(target / "seeds.json") == Seeds.read(path)
            continue
        model = old.get("model") or old["decoding"]["model"]
        new = json.loads((target / "models" / model["name"] / "0.json").read_text())[old["kind"]]
        lost = [n for n in numbers(old) if n not in list(numbers(new))]
        assert lost == [], path
    run = Run.read(target / "models/transformer_tiny/0.json")
    assert run.summary and "differed" in run.summary.provenance.to_measure_again
    log = (folder / "itera_lite_tiny_metrics.csv").read_bytes()
    assert (target / "models/itera_lite_tiny/0.csv").read_bytes() == log
    for own in ("seeds.json", "ladder/seeds.json"):  # of a user
        (tmp_path / own).parent.mkdir(exist_ok=True)
        (tmp_path / own).write_bytes((folder / "seeds.json").read_bytes())
    assert "`ladder/" not in index(tmp_path)
    line = next(x for x in index(tmp_path).splitlines() if "`set/models/`" in x)
    assert "2 runs: itera" in line and "1 changed and 11 unknown of 12" in line
    assert line.endswith("| 1 of 12 |")


def test_what_is_measured_later_joins_the_run(tmp_path: Path) -> None:
    folder, target = write_results(tmp_path / "results"), tmp_path / "set"
    add(folder, target, "models")
    later = tmp_path / "later"
    held = HeldOut("itera_lite_tiny", 0.7, 3.6, 10, 256, "a", "b", provenance=provenance("x"))
    held.write(later / "itera_lite_tiny_heldout.json")
    add(later, target, "models")
    run = Run.read(target / "models/itera_lite_tiny/0.json")
    assert run.held_out == held and isinstance(run.training_speed, TrainingSpeed)


@pytest.mark.skipif(not ROOT.is_dir(), reason="results aren't part of the package")
def test_the_index_is_that_of_the_committed_results() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8") == index()

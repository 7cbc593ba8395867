"""The load by other programs beside a training stands in its record, also of one that went on."""

import json

import pytest

from itera_lite.commands.train import train
from itera_lite.machine.load import LoadTime
from itera_lite.train import loop

SETTINGS = {"vocab_size": 300, "batch_size": 4, "seq_len": 32, "precision": "fp32", "quiet": True}


def run(text, out, others, monkeypatch, **options):
    """A training in whose laps, of a second each, other programs use so many cores."""

    class Meter:
        def lap(self):
            return LoadTime(1.0, others)

    monkeypatch.setattr(loop, "LoadMeter", Meter)
    folders = {"checkpoints": out / "c", "results": out / "r"}
    (summary,) = train(str(text), model="itera", **SETTINGS, **folders, **options).values()
    file = out / "c" / "itera_lite_tiny-last" / "training_state" / "state.json"
    return summary.provenance, json.loads(file.read_text())["state"]


def test_it_is_the_mean_over_the_whole_training(text, tmp_path, small, monkeypatch):
    first, before = run(text, tmp_path, 0.2, monkeypatch, tokens="2K")
    assert first.load_by_others == pytest.approx(0.2)
    assert first.load.by_others == pytest.approx(0.2) and first.load.cores >= 1
    whole, after = run(text, tmp_path, 1.0, monkeypatch, tokens="4K", resume=True)
    more = after["load_seconds"] - before["load_seconds"]
    assert before["load_seconds"] >= 1 and more >= 1
    assert after["load_others"] == pytest.approx(0.2 * before["load_seconds"] + 1.0 * more)
    # The record also has what came after the last save.
    assert after["load_others"] / after["load_seconds"] - 1e-3 < whole.load_by_others < 0.99


def test_a_state_of_before_has_none_and_goes_on(text, tmp_path, small, monkeypatch):
    run(text, tmp_path, 0.2, monkeypatch, tokens="2K")
    file = tmp_path / "c" / "itera_lite_tiny-last" / "training_state" / "state.json"
    saved = json.loads(file.read_text())
    del saved["sha256"], saved["version"]
    for key in ("load_seconds", "load_others"):
        del saved["state"][key]
    file.write_text(json.dumps(saved))
    whole, _ = run(text, tmp_path, 1.0, monkeypatch, tokens="4K", resume=True)
    assert whole.load_by_others == 1.0


def test_where_nothing_is_measured_nothing_is_claimed(text, tmp_path, small, monkeypatch):
    monkeypatch.setattr("itera_lite.machine.load.read_counters", lambda: None)
    folders = {"checkpoints": tmp_path / "c", "results": tmp_path / "r"}
    (summary,) = train(str(text), model="itera", **SETTINGS, **folders, tokens="2K").values()
    assert summary.provenance.load_by_others is None and summary.provenance.load is None

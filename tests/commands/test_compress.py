"""`itera compress`: what fits is picked, said, and true of the file."""

from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest

from itera_lite.commands.compress import compress
from itera_lite.compress import fit as fitting
from itera_lite.compress.quantize import quantize
from itera_lite.compress.start import Job
from itera_lite.engine import Model
from itera_lite.errors import ExportError, UsageError
from itera_lite.records import Summary
from tests.compress.checkpoints import GPT2, ITERA, TRANSFORMER, files, old, save, text

__all__ = ["old", "save", "text"]


@pytest.fixture
def fit(tmp_path: Path, text: Path):
    def run(checkpoint: Path, **options):
        return compress(
            checkpoint,
            data=str(text),
            minutes=0.004,
            workers=1,
            quiet=True,
            checkpoints=tmp_path / "c",
            results=tmp_path / "r",
            overwrite=True,
            **options,
        )

    return run


def written(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "c" / "given_small").glob("*.gguf")
    Model.load(file)
    return file


def test_a_size_takes_the_mildest_way_that_fits(fit, save, tmp_path):
    given = save(ITERA)
    before = files(given)
    eight = fit(given, target_bytes="1MB").compression
    assert eight.type == "q8_0" and eight.method == "plain"
    size = written(tmp_path).stat().st_size
    between = fit(given, target_bytes=str(size - 1000))
    assert written(tmp_path).stat().st_size <= size - 1000
    assert set(between.compression.weights) >= {"Q8_0", "Q4_0"}
    four = between.compression.steps[0]
    least = int(four.split(" in 4")[0].split(", ")[-1].replace(",", ""))
    fewer = fit(given, target_bytes=str(least - 1000))
    assert written(tmp_path).stat().st_size <= least - 1000
    assert fewer.model.config.n_experts < ITERA.n_experts
    assert any("experts stay" in step for step in fewer.compression.steps)
    saved = Summary.read(tmp_path / "r" / "given_small_summary.json")
    assert saved.compression.steps == fewer.compression.steps
    assert files(given) == before
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["given_small"]
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "given_small_summary.json",
        "given_small_metrics.csv",
    }


def test_a_loss_takes_the_smallest_way_within_it(fit, save, tmp_path):
    given = save(TRANSFORMER)
    loose = fit(given, max_loss="50%").compression
    assert (loose.type, loose.method) == ("q4_0", "plain")
    strict = fit(given, max_loss="0.4%").compression
    assert strict.bpb.after <= 1.004 * strict.bpb.before
    assert written(tmp_path).stat().st_size == strict.bytes.after


def test_what_was_rejected_never_bears_the_results_name(fit, save, tmp_path, monkeypatch):
    """An older result stays as it is until another one is accepted."""
    given = save(ITERA)
    first = fit(given, target_bytes="1MB")
    kept = files(tmp_path / "c") | files(tmp_path / "r")
    written_to = []

    def worse(*arguments, **options):
        summary = quantize(*arguments, **options)
        summary.compression.bpb.after_engine = 99.0
        written_to.append(summary.compression.file)
        return summary

    monkeypatch.setattr(fitting, "quantize", worse)
    monkeypatch.setattr(fitting, "validation_score", lambda *_: SimpleNamespace(bpb=99.0))
    with pytest.raises(UsageError, match="even 8 bits cost"):
        fit(given, max_loss="0%")
    assert files(tmp_path / "c") | files(tmp_path / "r") == kept
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["given_small"]
    assert len(written_to) == 2 and all("given_small-tried" in file for file in written_to)
    path = tmp_path / "c" / "given_small" / "model-q8_0.gguf"
    assert first.model.name == "given_small" and first.compression.file == str(path)
    assert general_name(path) == "given_small"


def test_a_stopped_try_leaves_nothing(fit, save, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "adopt", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(save(ITERA), target_bytes="1MB")
    assert not (tmp_path / "c").exists() and not (tmp_path / "r").exists()


def general_name(file: Path) -> str:
    field = gguf.GGUFReader(file).fields["general.name"]
    return bytes(field.parts[field.data[0]]).decode()


def test_what_cant_be_done_is_said(fit, save, tmp_path):
    given = save(ITERA)
    before = files(given)
    with pytest.raises(UsageError, match=r"smallest.*[\d,]+ bytes"):
        fit(given, target_bytes="10KB")
    with pytest.raises(UsageError, match="give one of --target-bytes and --max-loss"):
        fit(given)
    with pytest.raises(UsageError, match="give one of --target-bytes and --max-loss"):
        fit(given, target_bytes="1MB", max_loss="1%")
    for bad in ("1", "-1%", "x%"):
        with pytest.raises(UsageError, match="max-loss"):
            fit(given, max_loss=bad)
    assert files(given) == before
    with pytest.raises(ExportError, match="GPT-2"):
        fit(save(GPT2), target_bytes="1MB")

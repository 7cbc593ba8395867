"""Plots are drawn where there is data, and only there."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from itera_lite.errors import OutputError
from itera_lite.report.plots import PLOTS, draw, plot_all_metrics
from itera_lite.report.plots.style import color, label, short, spread
from itera_lite.report.results import load_results

from .reading import FILES
from .synthetic import write_model, write_results

ROOT = Path(__file__).resolve().parents[2]


def ink(path: Path) -> float:
    """Share of the pixels that aren't white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_every_plot_is_drawn_and_not_empty(whole):
    paths = [path for path in whole[1].values() if path.suffix == ".png"]
    assert [path.stem for path in paths] == list(PLOTS)
    for path in paths:
        assert Image.open(path).width == 1440
        assert 0.01 < ink(path) < 0.9, path


def test_a_plot_without_data_is_not_drawn_and_an_old_one_goes(results, tmp_path):
    for path in results.glob("*_benchmark.json"):
        path.unlink()
    (tmp_path / "speed.png").write_bytes(b"of an earlier run")
    left = draw(load_results(results), tmp_path)
    assert set(left) == {"training_curves", "quality_cost", "position", "experts", "engine"}
    assert not (tmp_path / "speed.png").exists()


@pytest.mark.parametrize("kept", FILES)
def test_one_model_with_one_file_is_enough(results, tmp_path, kept):
    for path in results.iterdir():
        if path.name != f"itera_lite_tiny_{kept}":
            path.unlink()
    drawn = set(draw(load_results(results), tmp_path))
    assert (
        drawn
        == {
            "metrics.csv": {"training_curves", "quality_cost"},
            "summary.json": {"experts"},
            "eval.json": {"position"},
            "benchmark.json": {"speed", "latency", "memory"},
            "training_speed.json": set(),
            "decode.json": {"engine"},
            "scoring.json": set(),
        }[kept]
    )


def test_several_sizes_are_drawn(results, tmp_path):
    for name, family in (("itera_lite_small", "itera"), ("transformer_small", "transformer")):
        write_model(results, name, family, bpb=0.7, speed=500, partner="")
    assert len(draw(load_results(results), tmp_path)) == 8


def test_a_model_has_one_name_and_colour_in_all_plots(results):
    """Also in plots that lack its siblings: there it isn't the first of its family."""
    write_model(results, "itera_lite_small", "itera", bpb=0.7, speed=500, partner="")
    (results / "itera_lite_tiny_benchmark.json").unlink()
    found = load_results(results)
    tiny, _, small = found.models
    legend = PLOTS["speed"](found).legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["Transformer tiny", "Itera small"]
    assert label(small, found.models) == names[1]
    drawn = to_hex(legend.get_patches()[1].get_facecolor())
    assert drawn == color(small, found.models).lower() != color(tiny, found.models).lower()


def test_a_run_of_one_evaluation_is_no_curve(results, tmp_path):
    for path in results.iterdir():
        path.unlink()
    for name in ("itera_lite_tiny", "transformer_tiny"):
        path = results / f"{name}_metrics.csv"
        path.write_text("step,tokens,seconds,flops,train_bpb,valid_bpb\n1,10,1,5,3.0,2.9\n")
    assert draw(load_results(results), tmp_path) == {}


def test_old_command_draws_from_the_default_folders(tmp_path):
    """`from utils.visualization import plot_all_metrics; plot_all_metrics()`"""
    results = write_results(tmp_path / "results")
    for path in results.iterdir():
        if not path.name.endswith("metrics.csv"):  # fewer plots, less time
            path.unlink()
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from utils.visualization import plot_all_metrics; plot_all_metrics()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reports/training_curves.png").stat().st_size > 10_000
    assert done.stdout.splitlines()[0].endswith("training_curves.png")


def test_the_command_prints_its_plots_and_what_it_left_out(results, tmp_path, monkeypatch, capsys):
    for path in results.iterdir():
        if not path.name.endswith("metrics.csv"):
            path.unlink()
    (results / "notes_summary.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    paths = plot_all_metrics()
    assert [str(path) for path in paths] == [
        "reports/training_curves.png", "reports/quality_cost.png",
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(path) for path in paths]
    assert printed.err.startswith("note: left out: ") and "notes_summary.json" in printed.err
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        plot_all_metrics(results, tmp_path / "file" / "reports")


def test_importing_the_plots_needs_no_matplotlib():
    code = (
        "import sys, itera_lite.report.plots, itera_lite.commands.report, itera_lite.report.table\n"
        "print({'matplotlib', 'torch', 'numpy', 'markdown_it'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_labels_are_spread_so_that_none_overlaps():
    wanted, heights = [0.5, 0.51, 0.52, 0.9], [0.1, 0.1, 0.1, 0.1]
    places = sorted(spread(wanted, heights))
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(places))
    assert places[-1] == 0.9  # a label that is alone stays where it belongs
    assert spread([0.2, 0.8], [0.1, 0.1]) == pytest.approx([0.2, 0.8])


def test_short_numbers():
    assert [short(v) for v in (0.05, 2, 128, 8192, 23_900, 2.5e6)] == [
        "0.05", "2", "128", "8,192", "23.9k", "2.5M",
    ]  # fmt: skip

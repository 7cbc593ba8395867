"""The plots of the report: each a function of the results, drawn only where there is data."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from itera_lite.files import output_errors
from itera_lite.report.plots import cost, engine, training
from itera_lite.report.plots.style import save
from itera_lite.report.results import Results, load_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "training_curves": training.training_curves,
    "quality_cost": training.quality_cost,
    "position": training.position,
    "seeds": training.seeds,
    "experts": training.experts,
    "speed": cost.speed,
    "latency": cost.latency,
    "memory": cost.memory,
    "engine": engine.engine,
    "ladder": cost.ladder,
}

__all__ = ["PLOTS", "draw", "plot_all_metrics"]


def require_writable(folder: Path) -> None:
    """Make the folder of a report, and see that files can be made in it, before any work.

    Raises:
        OutputError: they can't.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def print_left_out(results: Results) -> None:
    """Print on standard error which files were left out of the results."""
    for note in results.left_out:
        print(f"note: left out: {note}", file=sys.stderr)


def draw(results: Results, folder: str | Path) -> dict[str, Path]:
    """Draw every plot that the results allow, as ``folder/NAME.png``.

    A plot of an earlier run whose data is gone is removed, so the folder never
    shows old numbers beside new ones.

    Returns:
        Path by plot name, in the order of `PLOTS`; what has no data isn't there.
    """
    paths = {}
    for name, plot in PLOTS.items():
        path = Path(folder) / f"{name}.png"
        fig = plot(results)
        if fig is None:
            path.unlink(missing_ok=True)
        else:
            paths[name] = save(fig, path)
    return paths


def plot_all_metrics(
    results: str | Path = "results", reports: str | Path = "reports"
) -> list[Path]:
    """Draw every plot that the result files allow and print where they lie.

    Args:
        results: Folder of the result files.
        reports: Folder for the PNG files.

    Raises:
        IteraError: where there are no result files.
    """
    found = load_results(results)
    require_writable(Path(reports))
    print_left_out(found)
    paths = list(draw(found, reports).values())
    for path in paths:
        print(path)
    return paths

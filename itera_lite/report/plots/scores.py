"""The plot of `itera score`: how many texts have which score, and where the kept ones end."""

from __future__ import annotations

from pathlib import Path

from itera_lite.report.plots import style
from itera_lite.stats.histogram import Histogram

MOST_BARS = 60


def draw_scores(
    histogram: Histogram, path: Path, *, title: str, unit: str, threshold: float | None = None
) -> Path:
    """Write the histogram as PNG; the bars of kept texts are darker.

    Args:
        histogram: with at least one value.
        path: the file.
        title: stands above the plot.
        unit: what the scores are.
        threshold: texts with at most this score are kept.

    Raises:
        OutputError: the file can't be written.
    """
    kept, left = style.SHADES["itera"][0], style.SHADES[None][1]
    bars = histogram.bars(MOST_BARS)
    width = next(bar.high - bar.low for bar in bars if abs(bar.high - bar.low) < float("inf"))
    with style.figure() as (fig, axes):
        panel = axes[0, 0]
        for bar in bars:
            low = bar.low if bar.low > -float("inf") else bar.high - width
            middle = low + width / 2
            ink = kept if threshold is None or middle <= threshold else left
            panel.bar(low, bar.count, width=0.92 * width, align="edge", color=ink)
        if threshold is not None:
            panel.axvline(threshold, color=style.INK, linewidth=1.2)
            panel.annotate(
                f"at most {threshold:.4g} is kept",
                (threshold, 1),
                xycoords=("data", "axes fraction"),
                xytext=(6, -12),
                textcoords="offset points",
                color=style.INK,
                fontsize=9.5,
            )
        panel.set_ylim(0, 1.12 * max(bar.count for bar in bars))  # with room for the label
        panel.yaxis.get_major_locator().set_params(integer=True)
        panel.grid(axis="x", visible=False)
        panel.set(title=title, xlabel=f"{unit} (lower is more probable)", ylabel="texts")
        return style.save(fig, path)

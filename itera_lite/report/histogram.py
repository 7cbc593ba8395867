"""The histogram of scores as lines of text, for a terminal."""

from __future__ import annotations

import math

from itera_lite.report.text import percent
from itera_lite.stats.histogram import Bar, Histogram
from itera_lite.terminal import table

WIDTH = 36  # characters of the longest bar


def histogram_text(
    histogram: Histogram, title: str, threshold: float | None = None, block: str = "█"
) -> str:
    """A line a bar: its range, its length, the number of values and their share.

    Args:
        histogram: with at least one value.
        title: what the values are.
        threshold: is marked in its bar.
        block: the character that bars are made of.
    """
    bars = histogram.bars()
    most = max(bar.count for bar in bars)
    marked = None
    if threshold is not None:  # the highest bar with a value that is kept
        marked = max(
            (bar for bar in bars if bar.low <= threshold), key=lambda b: b.low, default=None
        )
    rows = []
    for bar in bars:
        length = math.ceil(WIDTH * bar.count / most)
        mark = f"<- at most {threshold:.4g} is kept" if bar is marked else ""
        share = percent(bar.count / histogram.total)
        rows.append([_range(bar), block * length, f"{bar.count:,}", share, mark])
    return table([title, "", "texts", "share", ""], rows, "llrrl")


def _range(bar: Bar) -> str:
    if bar.low == -math.inf:
        return f"below {bar.high:.2f}"
    if bar.high == math.inf:
        return f"{bar.low:.2f} or more"
    return f"{bar.low:.2f} to {bar.high:.2f}"

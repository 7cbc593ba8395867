"""The statistics that a repeated measurement is reported with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def stat(samples: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest, spread (interquartile range), count and the samples."""
    samples = [float(x) for x in samples]
    return {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "spread": percentile(samples, 75) - percentile(samples, 25),
        "repeats": len(samples),
        "samples": samples,
    }


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear interpolation between order statistics, as NumPy's default."""
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

"""The statistics that a repeated measurement is reported with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Any, Self

import msgspec


class Stat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A repeated measurement; ``spread`` is the interquartile range."""

    median: float
    min: float
    max: float
    spread: float
    repeats: int
    samples: Annotated[list[float], msgspec.Meta(min_length=1)]

    @classmethod
    def of(cls, samples: Sequence[float], **more: Any) -> Self:
        """The statistics of ``samples``, at least one; ``more``: a subclass's own fields."""
        samples = [float(x) for x in samples]
        return cls(
            median=statistics.median(samples),
            min=min(samples),
            max=max(samples),
            spread=percentile(samples, 75) - percentile(samples, 25),
            repeats=len(samples),
            samples=samples,
            **more,
        )


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

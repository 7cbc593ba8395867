"""The statistics that a repeated measurement is reported with."""

from __future__ import annotations

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
        import numpy as np  # not at the top, so that reading results starts quickly

        samples = [float(x) for x in samples]
        low, high = np.percentile(samples, [25, 75])
        return cls(
            median=statistics.median(samples),
            min=min(samples),
            max=max(samples),
            spread=float(high - low),
            repeats=len(samples),
            samples=samples,
            **more,
        )

"""Counts what `itera score` has scored and kept; the counts of several files add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from itera_lite.engine.scorer import Scored
from itera_lite.stats.histogram import Histogram

COUNTS = ("lines", "kept", "bytes", "kept_bytes", "nats", "repaired", "halves")


@dataclass(kw_only=True)
class Tally:
    """Counts of documents.

    Attributes:
        lines: documents scored; ``kept``: of these, documents written.
        bytes: of their text; ``kept_bytes``: of the text of those written.
        nats: minus the sum of all tokens' log-probabilities, under the (good) model.
        repaired: lines in which something wasn't UTF-8.
        halves: texts with half of a surrogate pair, which no Unicode text has.
        histogram: of the scores: bits per byte, or their difference.
    """

    lines: int = 0
    kept: int = 0
    bytes: int = 0
    kept_bytes: int = 0
    nats: float = 0.0
    repaired: int = 0
    halves: int = 0
    histogram: Histogram = field(default_factory=Histogram)

    @property
    def bits_per_byte(self) -> float:
        """Of all documents together; 0 where there are none."""
        return self.nats / math.log(2) / self.bytes if self.bytes else 0.0

    def add(self, scored: Sequence[Scored], limit: float | None) -> list[bool]:
        """Count documents; returns whether each is kept.

        Args:
            scored: what the models give them.
            limit: the highest score that is kept; None keeps all, empty texts too.
        """
        scores = [each.score for each in scored]
        kept = [limit is None or (score is not None and score <= limit) for score in scores]
        self.lines += len(scored)
        self.kept += sum(kept)
        self.bytes += sum(each.good.bytes for each in scored)
        self.kept_bytes += sum(
            each.good.bytes for each, keep in zip(scored, kept, strict=True) if keep
        )
        self.nats += sum(each.good.nats for each in scored)
        self.histogram.add(score for score in scores if score is not None)
        return kept

    def update(self, other: Tally) -> None:
        """Count what another tally has counted too."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.histogram.update(other.histogram)

    def as_json(self) -> dict[str, Any]:
        """The counts as a JSON object, for `of_json`."""
        cells = {str(cell): n for cell, n in sorted(self.histogram.cells.items())}
        return {name: getattr(self, name) for name in COUNTS} | {"histogram": cells}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Tally:
        """The counts that `as_json` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        cells = {int(cell): int(n) for cell, n in value["histogram"].items()}
        counts = {name: int(value[name]) for name in COUNTS if name != "nats"}
        return cls(**counts, nats=float(value["nats"]), histogram=Histogram(cells))

"""A histogram of any number of values in little memory: counts in cells of one width."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CELL = 0.02  # width of a cell, in the unit of the values
REACH = 64.0  # values beyond it, on either side, count as this one
STEPS = (1, 2, 5)  # a bar is so many cells wide, or ten times as many, a hundred times, ...
TAIL = 0.005  # share of the values that the first bar, and the last, may take without a limit


@dataclass(frozen=True)
class Bar:
    """A bar of a drawing.

    Attributes:
        low: least value, which belongs to it; minus infinity where it takes all below ``high``.
        high: greatest value, which belongs to the next bar; infinity where there is none.
        count: values in it.
    """

    low: float
    high: float
    count: int


class Histogram:
    """Counts values in cells of the width `CELL`.

    Args:
        cells: number of the cell -> count, as `cells` gives it; cell i begins at i times `CELL`.
    """

    def __init__(self, cells: Mapping[int, int] | None = None) -> None:
        self.cells: Counter[int] = Counter(cells or {})

    def add(self, values: Iterable[float]) -> None:
        """Count finite values."""
        self.cells.update(
            math.floor(min(max(value, -REACH), REACH) / CELL + 1e-9) for value in values
        )

    def update(self, other: Histogram) -> None:
        """Count the values of another histogram too."""
        self.cells.update(other.cells)

    @property
    def total(self) -> int:
        """Number of values."""
        return self.cells.total()

    def bars(self, most: int = 16) -> list[Bar]:
        """At most ``most`` bars of one round width that cover all values, and two for the tails.

        The tails are the `TAIL` share of values on either side, where the bars in between would
        otherwise be too wide to show anything.
        """
        if not self.cells:
            return []
        first, last = self._cell_of(TAIL), self._cell_of(1 - TAIL)
        width = _width(last - first + 1, most)
        counts: Counter[int] = Counter()
        for cell, count in self.cells.items():
            counts[cell // width] += count
        low, high = first // width, last // width
        bars = [
            Bar(i * width * CELL, (i + 1) * width * CELL, counts[i]) for i in range(low, high + 1)
        ]
        below = sum(count for i, count in counts.items() if i < low)
        above = sum(count for i, count in counts.items() if i > high)
        if below:
            bars.insert(0, Bar(-math.inf, bars[0].low, below))
        if above:
            bars.append(Bar(bars[-1].high, math.inf, above))
        return bars

    def _cell_of(self, share: float) -> int:
        """The cell in which this share of the values is reached."""
        reached = 0
        for cell in sorted(self.cells):
            reached += self.cells[cell]
            if reached >= share * self.total:
                return cell
        return max(self.cells)


def _width(cells: int, most: int) -> int:
    """The least round width, in cells, of which at most ``most`` cover ``cells`` of them.

    One more is needed where they don't begin at a multiple of the width.
    """
    power = 1
    while True:
        for step in STEPS:
            if -(-cells // (step * power)) + 1 <= max(most, 2):
                return step * power
        power *= 10

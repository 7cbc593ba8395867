"""A histogram adds up, whatever its values, and its bars are few, equal and round."""

import math
import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from itera_lite.report.histogram import histogram_text
from itera_lite.stats.histogram import CELL, REACH, Histogram


@given(st.lists(st.floats(-100, 100), max_size=300), st.integers(2, 40))
def test_every_value_is_in_the_bar_that_covers_it(values: list[float], most: int) -> None:
    histogram = Histogram()
    histogram.add(values)
    bars = histogram.bars(most)
    assert len(bars) <= most + 2
    assert sum(bar.count for bar in bars) == histogram.total == len(values)
    inner = [bar for bar in bars if math.isfinite(bar.high - bar.low)]
    assert len({round((bar.high - bar.low) / CELL) for bar in inner}) <= 1
    for left, right in pairwise(bars):
        assert left.high == right.low
    for bar in bars:
        close = 1e-6  # a value at an edge may be rounded to either side
        certain = sum(bar.low + close <= v < bar.high - close for v in clipped(values))
        possible = sum(bar.low - close <= v < bar.high + close for v in clipped(values))
        assert certain <= bar.count <= possible


def clipped(values: list[float]) -> list[float]:
    return [min(max(value, -REACH), REACH) for value in values]


def test_a_few_far_values_dont_flatten_the_rest() -> None:
    rng = random.Random(0)
    histogram = Histogram()
    histogram.add(rng.gauss(2, 0.4) for _ in range(2000))
    histogram.add([60.0, -50.0])
    bars = histogram.bars()
    assert bars[0].low == -math.inf and bars[-1].high == math.inf
    assert max(bar.count for bar in bars) < 600


def test_parts_add_up() -> None:
    whole, a, b = Histogram(), Histogram(), Histogram()
    a.add([0.1, 0.1, 3.0])
    b.add([0.1, -2.0])
    whole.add([0.1, 0.1, 3.0, 0.1, -2.0])
    a.update(b)
    assert a.cells == whole.cells == Histogram(dict(whole.cells)).cells


def test_the_text_marks_the_threshold_in_its_bar() -> None:
    histogram = Histogram()
    histogram.add([1.0, 1.01, 1.5, 2.5])
    rows = histogram_text(histogram, "bits", threshold=1.5, block="#").splitlines()
    (marked,) = (row for row in rows if "<- at most 1.5 is kept" in row)
    low, high = (float(n) for n in marked.split("  ")[0].split(" to "))
    assert low <= 1.5 < high
    longest = max(rows[1:], key=lambda row: row.count("#"))
    assert " 2 " in longest and "50.0 %" in longest

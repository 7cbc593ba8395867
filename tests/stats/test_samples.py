"""The statistics of a repeated measurement."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.stats.samples import Stat


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_statistics_are_numpys(samples):
    got = Stat.of(samples)
    low, high = np.percentile(samples, [25, 75])
    assert got.median == pytest.approx(np.median(samples))
    assert got.spread == pytest.approx(high - low, abs=1e-6)
    assert (got.min, got.max) == (min(samples), max(samples))
    assert (got.repeats, got.samples) == (len(samples), samples)

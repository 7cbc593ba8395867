"""Compare AUC and its bootstrap with their definitions."""

import numpy as np
import pytest

from itera_lite.stats import auc
from itera_lite.stats.auc import resamples, separation


def naive(first: list[float], second: list[float]) -> float:
    """The share of pairs in which the second is higher; equal ones count half."""
    won = sum((b > a) + (a == b) / 2 for a in first for b in second)
    return won / len(first) / len(second)


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_every_resample_are_the_definition(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auc, "_AT_A_TIME", 50)  # several blocks
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 9, 13).astype(float)  # many equal scores
    second = rng.integers(2, 11, 13).astype(float)
    drawn = resamples(13, repeats=20, seed=seed)
    found = separation(first, second, drawn)
    assert found.value == pytest.approx(naive(list(first), list(second)))
    assert drawn.shape == (20, 13) and (drawn.sum(axis=1) == 13).all()
    for weights, value in zip(drawn, found.resampled, strict=True):
        pairs = np.repeat(np.arange(13), weights)
        assert value == pytest.approx(naive(list(first[pairs]), list(second[pairs])))


def test_direction_and_ends() -> None:
    low, high = np.arange(10.0), np.arange(20.0, 30.0)
    drawn = resamples(10, repeats=10)
    assert separation(low, high, drawn).value == 1
    assert separation(high, low, drawn).value == 0
    assert separation(low, low, drawn).value == 0.5
    assert separation(low, high, drawn).measurement.low == 1


def test_the_interval_holds_the_truth_about_19_times_in_20() -> None:
    """Normal scores a standard deviation apart: AUC is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(0)
    drawn = resamples(80, repeats=200)
    held = 0
    for _ in range(200):
        found = separation(rng.normal(size=80), rng.normal(1, size=80), drawn).measurement
        assert found.low <= found.value <= found.high
        held += found.low <= 0.7602 <= found.high
    assert 175 <= held <= 198


def test_a_difference_of_scores_is_surer_than_either() -> None:
    """Both scores see the same pairs: what is hard for one is hard for the other."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=300), rng.normal(1, size=300)
    drawn = resamples(300)
    better = separation(first, second + 0.1, drawn)
    worse = separation(first, second, drawn)
    lead = (better - worse).measurement
    assert lead.value == pytest.approx(better.value - worse.value) and lead.low > 0
    assert lead.high - lead.low < (worse.measurement.high - worse.measurement.low) / 5
    assert (worse - better).measurement.high < 0

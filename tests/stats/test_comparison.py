"""Verdicts follow direction and spread; the numbers here are made up."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.stats.comparison import (
    SIDE_NAMES,
    Measurement,
    Metric,
    compare,
    median_interval,
    times,
)
from itera_lite.stats.samples import Stat

SPEED = Metric("speed", "Speed", "tokens/s", "higher", "timing", "speed")
LATENCY = Metric("latency", "Latency", "ms", "lower", "timing", "speed")
PARAMS = Metric("params", "Parameters", "parameters", "lower", "count", "size")
BPB = Metric("bpb", "Bits per byte", "bits/byte", "lower", "run", "quality")
PPL = Metric("ppl", "Perplexity", "", "lower", "run", "quality", log=True)

LOW = Measurement.of_samples([98, 99, 100, 101, 102])
HIGH = Measurement.of_samples([198, 199, 200, 201, 202])


@pytest.mark.parametrize(
    ("metric", "ours", "other", "winner"),
    [
        (SPEED, HIGH, LOW, "ours"),
        (SPEED, LOW, HIGH, "other"),
        (LATENCY, HIGH, LOW, "other"),
        (LATENCY, LOW, HIGH, "ours"),
    ],
)
def test_the_direction_decides_who_is_better(metric, ours, other, winner):
    result = compare(metric, ours, other)
    assert result.winner == winner
    assert result.verdict == f"{SIDE_NAMES[winner]} better by 2.00×"


def test_ratio_says_direction_and_what_is_better():
    assert compare(SPEED, HIGH, LOW).ratio_text == "2.00× higher (better)"
    assert compare(SPEED, LOW, HIGH).ratio_text == "2.00× lower (worse)"
    assert compare(LATENCY, LOW, HIGH).ratio_text == "2.00× lower (better)"
    assert compare(LATENCY, HIGH, LOW).ratio_text == "2.00× higher (worse)"


def test_overlapping_intervals_are_no_clear_difference():
    wide = Measurement.of_samples([90, 110, 120, 130, 150])
    result = compare(SPEED, LOW, wide)
    assert result.winner is None
    assert result.verdict == "no clear difference (the intervals overlap)"
    assert result.ratio_text.endswith("(unclear)")


def test_intervals_that_just_touch_are_no_clear_difference():
    a, b = Measurement(100, 99, 105, 5), Measurement(110, 105, 111, 5)
    assert compare(SPEED, a, b).winner is None
    assert compare(SPEED, a, Measurement(110, 105.1, 111, 5)).winner == "other"


def test_a_clear_but_tiny_difference_of_timings_is_none():
    a, b = Measurement(100.0, 99.9, 100.1, 9), Measurement(100.8, 100.7, 100.9, 9)
    assert compare(SPEED, a, b).verdict == "no clear difference (under 1 % apart)"


@pytest.mark.parametrize("repeats", [1, 2])
def test_too_few_repeats_give_no_verdict(repeats):
    a, b = Measurement(100, 99, 101, repeats), Measurement(200, 199, 201, 5)
    assert compare(SPEED, a, b).winner is None
    assert f"too few repeats: {repeats}" in compare(SPEED, a, b).verdict


def test_a_count_is_exact_so_one_parameter_decides():
    result = compare(PARAMS, Measurement.once(1_000_001), Measurement.once(1_000_000))
    assert result.winner == "other"
    equal = compare(PARAMS, Measurement.once(7), Measurement.once(7))
    assert (equal.winner, equal.verdict, equal.ratio_text) == (None, "equal", "equal")


def test_one_run_each_ranks_the_checkpoints_and_says_so():
    assert compare(BPB, Measurement.once(0.77), Measurement.once(0.80)).verdict == (
        "Itera better by 1.039× (one run each)"
    )
    near = compare(BPB, Measurement.once(0.777), Measurement.once(0.780))
    assert near.verdict == "no clear difference (one run each, under 1 % apart)"


def test_seeds_decide_quality_by_their_intervals():
    a = Measurement.of_samples([0.780, 0.781, 0.782])
    assert compare(BPB, a, Measurement.of_samples([0.785, 0.786, 0.787])).winner == "ours"
    assert compare(BPB, a, Measurement.of_samples([0.779, 0.786, 0.787])).winner is None


@pytest.mark.parametrize("gap", [0.005, 0.009, 0.011, 0.03])
def test_perplexity_gets_the_verdict_of_its_loss(gap):
    losses = [2.0, 2.0 * (1 + gap)]
    loss = Metric("loss", "Loss", "nats/token", "lower", "run", "quality")
    by_loss = compare(loss, *(Measurement.once(x) for x in losses))
    by_ppl = compare(PPL, *(Measurement.once(math.exp(x)) for x in losses))
    assert by_loss.winner == by_ppl.winner


def test_missing_and_refused():
    assert compare(SPEED, LOW, None).verdict == "not measured"
    assert compare(SPEED, None, LOW).ratio_text == "—"
    refused = compare(SPEED, LOW, HIGH, refuse="measured with different cpu")
    assert refused.verdict == "not comparable: measured with different cpu"
    assert (refused.winner, refused.ratio_text) == (None, "—")


def test_zero_has_a_winner_and_no_ratio():
    result = compare(PARAMS, Measurement.once(0), Measurement.once(5))
    assert (result.winner, result.ratio, result.verdict) == ("ours", None, "Itera better")


@pytest.mark.parametrize("n", range(1, 30))
def test_interval_has_the_coverage_that_the_binomial_gives(n):
    """The k-th and (n+1-k)-th sample enclose the median with 1 - 2 P(Bin(n, 1/2) < k)."""
    low, high = median_interval(list(range(1, n + 1)))
    assert low + high == n + 1

    def coverage(k: float) -> float:
        return 1 - 2 * sum(math.comb(n, i) for i in range(int(k))) / 2**n

    if n >= 6:
        assert coverage(low) >= 0.95 > (coverage(low + 1) if 2 * (low + 1) <= n else 0)
    else:
        assert (low, high) == (1, n)


@pytest.mark.parametrize("repeats", [3, 4, 5, 7, 10])
def test_equal_speeds_rarely_get_a_winner(repeats):
    """1,000 comparisons of noise with noise, heavy slow tail: at most 2.5 % verdicts."""
    rng = random.Random(0)

    def noisy() -> Measurement:
        return Measurement.of_samples([100 + rng.expovariate(1 / 5) for _ in range(repeats)])

    wins = sum(compare(LATENCY, noisy(), noisy()).winner is not None for _ in range(1000))
    assert wins <= 25


@pytest.mark.parametrize("repeats", [3, 5, 7])
def test_speeds_that_differ_by_a_quarter_do_get_one(repeats):
    """The rule isn't merely silent: with 5 % noise it sees 25 % nearly always."""
    rng = random.Random(1)

    def around(center: float) -> Measurement:
        return Measurement.of_samples([center * rng.uniform(0.95, 1.05) for _ in range(repeats)])

    wins = sum(compare(SPEED, around(125), around(100)).winner == "ours" for _ in range(500))
    assert wins > 470


def test_one_outlier_makes_no_verdict_and_hides_none():
    slow = Measurement.of_samples([100, 101, 102, 103, 104, 105, 106, 107, 108, 900])
    assert slow.high < 900
    assert compare(LATENCY, slow, Measurement.of_samples([150] * 5 + [151] * 5)).winner == "ours"


def test_numbers_and_samples_are_measurements():
    assert Measurement.of(3) == Measurement(3, 3, 3, 1)
    assert Measurement.of(Stat.of([4, 5, 5, 7])) == Measurement(5, 4, 7, 4)
    assert Measurement.of(None) is None
    assert Measurement(5, 4, 7, 4).scaled(10) == Measurement(50, 40, 70, 4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_statistics_of_samples(samples):
    found = Stat.of(samples)
    ordered = sorted(samples)
    assert found.median == pytest.approx(np.median(samples))
    assert (found.min, found.max, found.repeats) == (ordered[0], ordered[-1], len(samples))
    assert found.samples == samples
    if len(samples) % 4 == 1:  # the quarters lie on samples
        quarter = len(samples) // 4
        assert found.spread == pytest.approx(ordered[-1 - quarter] - ordered[quarter], abs=1e-6)


def test_times_is_a_factor_of_at_least_one():
    assert [times(x) for x in (1.0134, 1 / 1.0134, 2.414, 0.05, 381.2)] == [
        "1.013×", "1.013×", "2.41×", "20.0×", "381×",
    ]  # fmt: skip

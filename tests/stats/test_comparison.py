"""Verdicts follow direction and spread; the numbers here are made up."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itera_lite.stats.comparison import (
    SIDE_NAMES,
    Measurement,
    Metric,
    compare,
    is_number,
    median_interval,
    times,
)
from itera_lite.stats.load import Load
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
    assert compare(SPEED, b, a).winner is None
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


@settings(deadline=None)
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
    assert [times(x) for x in (1, 1.0996, 1.1, 9.996, 10, 99.96, 100, 12345)] == [
        "1.000×", "1.100×", "1.10×", "10.00×", "10.0×", "100.0×", "100×", "12,345×",
    ]  # fmt: skip
    assert times(0) == times(-1) == "∞×"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, True), (-1.5, True), (True, False), (math.inf, False), (math.nan, False), ("1", False),
     (None, False)],
)  # fmt: skip
def test_what_is_a_number(value, expected):
    assert is_number(value) is expected


def test_an_interval_of_another_confidence_is_narrower():
    samples = list(range(20))
    assert median_interval(samples) == (5, 14)
    assert median_interval(samples, 0.5) == (7, 12)
    assert median_interval(samples, 0.999) == (2, 17)
    assert median_interval(samples, 0.0) == (9, 10)
    assert median_interval(range(5), 0.0) == (1, 3)
    # The second of nine and the eighth enclose the median with 1 - 2 * 10 / 512.
    assert median_interval(range(9), 1 - 20 / 512) == median_interval(range(9), 0.96) == (1, 7)
    assert median_interval(range(9), 0.961) == (0, 8)
    assert median_interval([3, 1, 2]) == (1, 3)
    assert median_interval([7]) == (7, 7)


def test_few_repeats_reach_further():
    assert Measurement(10, 8, 12, 4).reach == (6, 14)
    assert Measurement(10, 8, 12, 5).reach == (8, 12)


def test_a_difference_of_one_percent_counts_and_less_does_not():
    def both(x, y, metric, repeats):
        return compare(metric, Measurement(x, x, x, repeats), Measurement(y, y, y, repeats))

    assert both(101, 100, SPEED, 5).winner == "ours"
    assert both(100.9, 100, SPEED, 5).reason == "under 1 % apart"
    assert both(-101, -100, SPEED, 5).winner == "other"
    assert both(-100.9, -100, SPEED, 5).winner is None
    assert both(100, 101, BPB, 1).winner == "ours"
    assert both(100, 100.9, BPB, 1).winner is None
    assert both(100, 100.9, BPB, 5).winner == "ours"  # seeds are judged by intervals alone
    # A perplexity of e^2 against e^2.02: the losses are one percent apart, the numbers two.
    near = both(math.exp(2), math.exp(2.019), PPL, 1)
    assert near.winner is None and near.ratio < 1 / 1.018
    assert both(math.exp(2), math.exp(2.021), PPL, 1).winner == "ours"
    below = both(math.exp(-2), math.exp(-2.019), PPL, 1)
    assert below.winner is None and below.ratio > 1.018
    assert both(0, 1, PPL, 1).winner == "ours"  # no logarithm of zero is taken


def test_why_there_is_no_winner_and_what_limits_one():
    three, four = Measurement(100, 99, 101, 3), Measurement(100.5, 99, 101, 4)
    assert compare(SPEED, three, four).reason == "the intervals overlap at 3 repeats"
    five = Measurement(100.5, 99, 101, 5)
    assert compare(SPEED, five, Measurement(100, 99, 101, 9)).reason == "the intervals overlap"
    far = Measurement(200, 199, 201, 4)
    assert compare(BPB, three, far).reason == "3 and 4 runs"
    assert compare(SPEED, three, far).reason == ""
    assert compare(SPEED, Measurement.once(1), far).reason == (
        "too few repeats: 1, a verdict needs 3"
    )
    assert compare(BPB, Measurement.of_samples([1, 2]), far).reason == (
        "too few repeats: 2, a verdict needs 3"
    )
    assert compare(BPB, Measurement.once(1.0), Measurement.once(2.0)).reason == "one run each"
    assert compare(BPB, Measurement.once(1.0), far).reason == (
        "too few repeats: 1, a verdict needs 3"
    )
    equal = compare(SPEED, three, three)
    assert (equal.winner, equal.verdict) == (None, "no clear difference")
    assert equal.ratio_text == "equal"


def test_each_outcome_keeps_what_it_was_asked_with():
    names = {"ours": "A", "other": "B"}
    asked = {"note": "estimated", "names": names}
    busy = (Load(2, 2), Load(2, 2))
    for found, verdict in (
        (compare(SPEED, None, LOW, **asked), "not measured"),
        (compare(SPEED, LOW, None, **asked), "not measured"),
        (compare(SPEED, LOW, HIGH, refuse="no", **asked), "not comparable: no"),
        (compare(SPEED, LOW, HIGH, loads=busy, **asked),
         "not judged: other programs used 2.0 of 2 cores: measure again on a quieter machine"),
        (compare(SPEED, LOW, HIGH, **asked), "B better by 2.00×"),
        (compare(SPEED, HIGH, LOW, **asked), "A better by 2.00×"),
    ):  # fmt: skip
        assert found.verdict == verdict
        assert (found.note, found.names, found.metric) == ("estimated", names, SPEED)
        assert found.label == "Speed (estimated)"
        assert found.reason == ("no" if "comparable" in verdict else "")
        assert found.comparable == (not verdict.startswith("not comparable"))
        assert bool(found.withheld) == verdict.startswith("not judged")
        assert found.winner == {"A": "ours", "B": "other"}.get(verdict[0])
    missing = compare(SPEED, None, LOW)
    assert (missing.ours, missing.other, missing.ratio, missing.factor) == (None, LOW, None, "")
    assert compare(SPEED, LOW, None).ours is LOW
    assert missing.note == missing.reason == missing.withheld == "" and missing.comparable
    told = compare(SPEED, LOW, HIGH, note="on one machine")
    assert told.label == "Speed"
    apart = compare(SPEED, LOW, HIGH, loads=(Load(0.9, 2), Load(0.1, 2)), names=names)
    assert "0.9 of 2 cores (A) and 0.1 of 2 cores (B)" in apart.withheld


def test_a_ratio_needs_two_positive_sides():
    assert compare(SPEED, LOW, HIGH).ratio == 0.5
    assert compare(SPEED, HIGH, LOW).ratio == 2.0
    for a, b in ((0, 5), (5, 0), (-1, 5), (5, -1)):
        found = compare(PARAMS, Measurement.once(a), Measurement.once(b))
        assert (found.ratio, found.factor, found.ratio_text) == (None, "", "—")
        assert found.winner == ("ours" if a < b else "other")


def test_samples_have_their_quartiles():
    found = Stat.of([1, 2, 3, 4, 10])
    assert (found.median, found.min, found.max, found.spread, found.repeats) == (3, 1, 10, 2, 5)
    assert found.samples == [1.0, 2.0, 3.0, 4.0, 10.0]
    assert all(type(x) is float for x in found.samples)


def test_a_subclass_has_fields_of_its_own():
    class Named(Stat):
        name: str

    found = Named.of([1, 3], name="mine")
    assert (found.name, found.median, found.repeats) == ("mine", 2, 2)

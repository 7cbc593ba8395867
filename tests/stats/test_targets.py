"""Check verdicts on numbers to reach, ratios with their intervals, and how both are written."""

import pytest

from itera_lite.stats.comparison import Measurement
from itera_lite.stats.load import Load
from itera_lite.stats.targets import Target, number, ratio


@pytest.mark.parametrize(
    ("sense", "found", "verdict"),
    [
        ("at least", Measurement(10, 10, 11, 5), "not clear"),  # the border is inside
        ("at least", Measurement(10, 9, 10, 5), "not clear"),
        ("at least", Measurement(10.5, 10.1, 11, 5), "met"),
        ("at least", Measurement(9.5, 9, 9.9, 5), "missed"),
        ("at least", Measurement.once(10), "met"),
        ("at least", Measurement.once(9.999), "missed"),
        ("at most", Measurement(10, 10, 11, 5), "not clear"),
        ("at most", Measurement(10.5, 10.1, 11, 5), "missed"),
        ("at most", Measurement(9.5, 9, 9.9, 5), "met"),
        ("at most", Measurement.once(10), "met"),
        ("at most", Measurement.once(10.001), "missed"),
    ],
)
def test_the_sense_and_the_interval_decide(sense, found, verdict):
    judged = Target("k", "what", sense, 10.0).judged(found)
    assert judged.verdict == verdict
    assert (judged.value, judged.low, judged.high) == (found.value, found.low, found.high)
    assert (judged.goal_verdict, judged.reason) == (None, "")
    assert (judged.key, judged.label, judged.sense, judged.target) == ("k", "what", sense, 10.0)


def test_a_goal_is_judged_beside_the_target():
    target = Target("k", "what", "at most", 10.0, goal=5.0)
    found = [target.judged(Measurement.once(x)) for x in (12, 7, 5)]
    assert [(t.verdict, t.goal_verdict) for t in found] == [
        ("missed", "missed"), ("met", "missed"), ("met", "met"),
    ]  # fmt: skip


def test_a_reason_or_a_load_comes_before_the_number():
    target = Target("k", "what", "at least", 1.0, goal=2.0)
    fine = Measurement.once(3)
    worse = target.judged(fine, "the quality is lower")
    assert (worse.verdict, worse.goal_verdict, worse.reason) == (
        "missed", "missed", "the quality is lower",
    )  # fmt: skip
    assert worse.verdict_text == "missed"
    busy = target.judged(fine, load=Load(1.5, 2))
    assert (busy.verdict, busy.goal_verdict) == ("not judged", "not judged")
    assert busy.reason == "other programs used 1.5 of 2 cores: measure again on a quieter machine"
    assert busy.verdict_text == f"not judged: {busy.reason}"
    quiet = target.judged(fine, load=Load(0.5, 2))
    assert (quiet.verdict, quiet.reason) == ("met", "")
    unmeasured = target.judged(None, "the quality is lower")
    assert unmeasured == target and unmeasured.verdict == "not measured"


def test_an_unclear_verdict_names_the_side_of_the_median():
    low = Target("k", "what", "at most", 10.0).judged(Measurement(9, 8, 11, 5))
    high = Target("k", "what", "at most", 10.0).judged(Measurement(11, 8, 12, 5))
    assert [low.verdict_text, high.verdict_text] == ["met, not clearly", "missed, not clearly"]


def test_cells_of_a_table():
    target = Target("k", "Speed", "at least", 1.7, unit="tokens/s")
    assert target.cells == ["Speed", "—", "at least 1.70 tokens/s", "not measured"]
    found = target.judged(Measurement.once(1234.5))
    assert found.cells == ["Speed", "1,234 tokens/s", "at least 1.70 tokens/s", "met"]
    assert Target("k", "Ratio", "at most", 8).cells[2] == "at most 8.00×"


def test_a_ratio_has_the_interval_that_both_allow():
    a, b = Measurement(10, 8, 12, 5), Measurement(4, 2, 5, 3)
    assert ratio(a, b) == Measurement(2.5, 1.6, 6.0, 3)
    assert ratio(b, a) == Measurement(0.4, 2 / 12, 5 / 8, 3)
    assert ratio(None, b) is ratio(a, None) is None
    zero = Measurement(1, 0, 2, 5)
    assert ratio(a, zero) is ratio(zero, a) is None
    assert ratio(a, Measurement(1, 1e-9, 2, 5)) is not None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.4567, "%", "46 %"),
        (1.0, "%", "100 %"),
        (9.994, "×", "9.99×"),
        (10, "×", "10.0×"),
        (99.94, "×", "99.9×"),
        (100, "×", "100×"),
        (-100.4, "×", "-100×"),
        (-12.34, "ms", "-12.3 ms"),
        (12345.6, "ms", "12,346 ms"),
        (1.5, "", "1.50"),
    ],
)
def test_a_number_with_its_unit(value, unit, text):
    assert number(value, unit) == text

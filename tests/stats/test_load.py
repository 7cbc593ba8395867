"""Verdicts on what depends on time are withheld where other programs could have made them."""

import pytest

from itera_lite.stats.comparison import Measurement, Metric, compare
from itera_lite.stats.load import MOST, MOST_APART, Load, why_withheld
from itera_lite.stats.targets import Target

SPEED = Metric("speed", "Speed", "tokens/s", "higher", "timing", "speed")
FAST = Measurement.of_samples([198, 199, 200, 201, 202])
SLOW = Measurement.of_samples([98, 99, 100, 101, 102])
NAMES = ("Itera", "Transformer")


@pytest.mark.parametrize(
    ("a", "b", "withheld"),
    [
        (0.0, 0.0, False),
        (0.3, 0.25, False),  # much the same, and most of the machine was ours
        (0.3, 0.15, True),  # 7.5 % of two cores apart
        (0.15, 0.3, True),
        (0.6, 0.62, True),  # not our machine
        (0.4, 0.4, False),
    ],
)
def test_the_limits(a, b, withheld):
    assert bool(why_withheld(Load(a, 2), Load(b, 2), NAMES)) == withheld
    more_cores = why_withheld(Load(4 * a, 8), Load(4 * b, 8), NAMES)
    assert bool(more_cores) == withheld  # they are shares of the cores


def test_both_shares_are_named():
    found = compare(SPEED, FAST, SLOW, loads=(Load(0.9, 2), Load(0.1, 2)))
    assert found.verdict == (
        "not judged: other programs used 0.9 of 2 cores (Itera) and 0.1 of 2 cores (Transformer): "
        "measure again on a quieter machine"
    )
    assert found.winner is None and found.comparable
    assert found.ratio_text == "2.00× higher (not judged)"


def test_one_share_is_named_where_both_were_measured_in_turns():
    load = Load(0.9, 2)
    found = compare(SPEED, FAST, SLOW, loads=(load, load))
    assert found.verdict == (
        "not judged: other programs used 0.9 of 2 cores: measure again on a quieter machine"
    )


def test_a_quiet_machine_and_older_records_are_judged_as_before():
    verdict = compare(SPEED, FAST, SLOW).verdict
    assert verdict == "Itera better by 2.00×"
    for loads in ((Load(0.1, 2), Load(0.1, 2)), (None, Load(2, 2)), (Load(2, 2), None)):
        assert compare(SPEED, FAST, SLOW, loads=loads).verdict == verdict


def test_what_cannot_be_compared_says_that_first():
    load = Load(2, 2)
    found = compare(SPEED, FAST, SLOW, refuse="different text", loads=(load, load))
    assert found.verdict == "not comparable: different text"
    assert compare(SPEED, FAST, None, loads=(load, load)).verdict == "not measured"


def test_targets_are_not_judged_either():
    target = Target("k", "label", "at least", 8, goal=100)
    found = target.judged(Measurement.once(9), load=Load(0.9, 2))
    assert (found.verdict, found.goal_verdict, found.value) == ("not judged", "not judged", 9)
    assert found.verdict_text.startswith("not judged: other programs used 0.9 of 2 cores")
    assert target.judged(Measurement.once(9), load=Load(0.4, 2)).verdict == "met"
    assert target.judged(Measurement.once(9), "worse", Load(0.9, 2)).verdict == "missed"
    assert target.judged(None, load=Load(0.9, 2)).verdict == "not measured"


def test_a_side_of_several_runs_has_their_mean():
    assert Load.mean([Load(0.1, 2), Load(0.3, 2)]) == Load(0.2, 2)
    assert Load.mean([Load(0.1, 2), None]) is None
    assert Load.mean([]) is None


def test_a_load_that_disturbs_is_above_the_limit():
    assert not Load(2 * MOST_APART, 2).disturbs
    assert Load(2 * MOST_APART + 0.01, 2).disturbs
    assert not Load(2 * MOST, 2).too_high
    assert Load(2 * MOST + 0.01, 2).too_high


def test_the_limits_themselves_are_allowed():
    assert (MOST_APART, MOST) == (0.05, 0.25)
    assert why_withheld(Load(0.2, 4), Load(0.4, 4), NAMES) == ""  # just five hundredths apart
    assert why_withheld(Load(0.2, 4), Load(0.41, 4), NAMES) != ""
    assert why_withheld(Load(1.0, 4), Load(0.9, 4), NAMES) == ""  # just a quarter
    assert why_withheld(Load(0.9, 4), Load(1.01, 4), NAMES) != ""
    assert why_withheld(Load(1.0, 4), Load(1.0, 4), NAMES) == ""


def test_a_load_in_words():
    assert str(Load(0.25, 1)) == "0.2 of 1 core"
    assert str(Load(1.26, 2)) == "1.3 of 2 cores"
    assert Load(1, 4).share == 0.25
    assert Load(1, 2).too_high == (
        "other programs used 1.0 of 2 cores: measure again on a quieter machine"
    )
    assert Load(0.5, 2).too_high == ""


def test_the_mean_is_of_all_measurements():
    assert Load.mean([Load(0.1, 4), Load(0.2, 2), Load(0.6, 2)]) == Load(pytest.approx(0.3), 4)
    assert Load.mean([None, Load(0.1, 2)]) is None

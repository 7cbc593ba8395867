"""Rounds: their order, and which are measured again; the load is made up."""

from dataclasses import dataclass

import pytest

from itera_lite.bench.turns import Entry, Rounds, take_turns
from itera_lite.machine import load
from itera_lite.machine.load import Counters, LoadMeter, LoadTime


@dataclass(kw_only=True)
class Counted(Entry[int]):
    """Gives the number of its measurement."""

    calls: int = 0

    def measure(self) -> int:
        self.calls += 1
        return self.calls


def meter(loads):
    """One that finds these loads, in cores, in rounds of a second."""

    def readings():
        clock = busy = 0.0
        yield Counters(0, 0, 0)
        yield Counters(0, 0, 0)  # after the warm-up
        for one in loads:
            clock, busy = clock + 1, busy + one
            yield Counters(clock, busy, 0)

    return LoadMeter(readings().__next__)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(load, "usable_cores", lambda: 2)


def turns(loads, repeats, **options):
    entries, names = [Counted(name="a"), Counted(name="b")], []
    found = take_turns(entries, repeats, names.append, meter=meter(loads), **options)
    return found, entries, names


def test_quiet_rounds_are_measured_once():
    found, entries, names = turns([0.02] * 3, 3)
    assert found.repeated == 0 and found.load.by_others == 0.02
    assert [one.samples for one in entries] == [[2, 3, 4]] * 2  # the first only warmed up
    assert names == ["b", "a", "a", "b", "b", "a", "a", "b"]


def test_a_disturbed_round_is_measured_again():
    found, entries, _ = turns([0, 1.5, 0, 0.9, 0.05], 3)
    assert found.repeated == 2
    assert [one.samples for one in entries] == [[2, 4, 6]] * 2
    assert found.load == LoadTime(3, pytest.approx(0.05))  # of what counts


def test_there_is_a_bound_and_then_the_quietest_count():
    found, entries, _ = turns([1.5, 0.9, 0, 1.2, 1.4, 1.3], 3)
    assert found.repeated == 3
    assert entries[0].samples == [3, 4, 5]  # in the order of the clock
    assert found.load.by_others == pytest.approx((0.9 + 0 + 1.2) / 3, abs=1e-4)
    assert entries[0].calls == 1 + 6


def test_what_cannot_be_measured_is_kept():
    entries = [Counted(name="a")]
    found = take_turns(entries, 2, str, warm_up=False, meter=LoadMeter(lambda: None))
    assert found == Rounds() and found.load.by_others is None
    assert entries[0].samples == [1, 2]


def test_rounds_add_up():
    one, two = Rounds(LoadTime(1, 2), 3), Rounds(LoadTime(3, 0), 1)
    assert one + two == Rounds(LoadTime(4, 2), 4)

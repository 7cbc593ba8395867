"""Numbers to reach, and the verdict that a measurement gives on them."""

from __future__ import annotations

from typing import Literal

import msgspec

from itera_lite.stats.comparison import Measurement
from itera_lite.stats.load import Load

Verdict = Literal["met", "missed", "not clear", "not judged", "not measured"]


class Target(msgspec.Struct, forbid_unknown_fields=True):
    """A number to reach, and once it is judged what was found.

    Attributes:
        key: its name in the files.
        label: what is measured.
        sense: whether ``target`` is the least or the most that will do.
        unit: of the numbers; ``×`` for a ratio.
        goal: a harder number, beside the target; None: there is none.
        value, low, high: the number that was found, and its interval.
        verdict: on the target; where it lies inside the interval, it isn't clear.
        goal_verdict: likewise on the goal.
        reason: why it is missed, or not judged, whatever its number says; may be empty.
    """

    key: str
    label: str
    sense: Literal["at least", "at most"]
    target: float
    unit: str = "×"
    goal: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Verdict = "not measured"
    goal_verdict: Verdict | None = None
    reason: str = ""

    def judged(
        self,
        found: Measurement | None,
        reason: str = "",
        load: Load | None = None,
        withheld: str = "",
    ) -> Target:
        """The target with what was found and the verdict, by the median and its interval.

        Args:
            found: the measurement; None where there is none.
            reason: why it counts as missed all the same, such as a loss of quality.
            load: by others, where the number depends on time; too high, and nothing is judged.
            withheld: why nothing is judged whatever was found, ``reason`` included.
        """
        if found is None:
            return self
        if load and not reason:
            withheld = withheld or load.too_high

        def verdict(wanted: float) -> Verdict:
            return "not judged" if withheld else self._verdict(wanted, found, reason)

        return msgspec.structs.replace(
            self,
            value=found.value,
            low=found.low,
            high=found.high,
            verdict=verdict(self.target),
            goal_verdict=None if self.goal is None else verdict(self.goal),
            reason=withheld or reason,
        )

    def _verdict(self, wanted: float, found: Measurement, reason: str) -> Verdict:
        if reason:
            return "missed"
        if found.low <= wanted <= found.high and found.low < found.high:
            return "not clear"
        return "met" if self._reaches(wanted, found.value) else "missed"

    def _reaches(self, wanted: float, value: float) -> bool:
        return value >= wanted if self.sense == "at least" else value <= wanted

    @property
    def cells(self) -> list[str]:
        """For a table: label, what was found, what was wanted, verdict."""
        found = "—" if self.value is None else number(self.value, self.unit)
        wanted = f"{self.sense} {number(self.target, self.unit)}"
        return [self.label, found, wanted, self.verdict_text]

    @property
    def verdict_text(self) -> str:
        """The verdict, with the side that the median is on where it isn't clear, and with the
        reason where nothing is judged."""
        if self.verdict == "not judged":
            return f"{self.verdict}: {self.reason}"
        if self.verdict != "not clear" or self.value is None:
            return self.verdict
        side = "met" if self._reaches(self.target, self.value) else "missed"
        return f"{side}, not clearly"


def ratio(a: Measurement | None, b: Measurement | None) -> Measurement | None:
    """a over b, with the interval that their intervals allow; None where one is missing."""
    if a is None or b is None or min(a.low, b.low) <= 0:
        return None
    return Measurement(a.value / b.value, a.low / b.high, a.high / b.low, min(a.repeats, b.repeats))


def number(value: float, unit: str) -> str:
    """A value with its unit, with as many digits as are worth reading."""
    if unit == "%":
        return f"{100 * value:.0f} %"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}" + ("×" if unit == "×" else f" {unit}" if unit else "")

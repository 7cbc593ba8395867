"""Verdicts, computed from a metric's direction and the spread of its numbers.

Three kinds of number need three rules:

- a *count* (parameters, FLOPs, bytes of state) is exact: any difference counts;
- a *timing* (tokens a second, resident memory) was repeated in one session:
  both sides need `MIN_REPEATS` repeats, and their intervals may not touch;
- a *run* (the bits per byte of a trained model) varies with the seed: with
  seeds the intervals decide; with one run each, a verdict holds for those two
  checkpoints only, and says so.

An interval is the distribution-free one of the median: between two order
statistics of the samples, at 95 % where there are enough of them (six or more)
and from the smallest to the largest below that. It assumes nothing about the
shape of the noise, and one slow outlier cannot make a verdict. Of three equal
timings a side, though, one pair in ten would part by chance, so below
`ENOUGH_REPEATS` each interval is widened by half its range on both sides before
the two are compared: about 1 in 100 then (a test simulates it).

A verdict on something that depends on time is withheld where other programs kept the machine busy:
`itera_lite.stats.load` has the limits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from itera_lite.stats.load import Load, why_withheld
from itera_lite.stats.samples import Stat

Direction = Literal["lower", "higher"]
Kind = Literal["count", "timing", "run"]
Side = Literal["ours", "other"]

MIN_REPEATS = 3
ENOUGH_REPEATS = 5
LEAST_DIFFERENCE = 0.01  # smaller relative differences of timings and single runs are noise
SIDE_NAMES: dict[Side, str] = {"ours": "Itera", "other": "Transformer"}


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite int or float (a bool is neither)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free confidence interval of the median, from order statistics.

    The k-th smallest and the k-th largest of n samples enclose the median with
    probability 1 - 2 P(Binomial(n, 1/2) < k); the largest k that reaches
    ``confidence`` is taken, and k = 1 where none does.

    Args:
        samples: At least one number.
        confidence: Wanted coverage, 0 to 1.
    """
    ordered = sorted(samples)
    n = len(ordered)
    k, below = 1, 1.0  # below = number of outcomes of Binomial(n, 1/2) that are < k
    while 2 * (k + 1) <= n:
        below += math.comb(n, k)
        if 1 - 2 * below / 2**n < confidence:
            break
        k += 1
    return ordered[k - 1], ordered[n - k]


@final
@dataclass(frozen=True)
class Measurement:
    """A number with what is known about its spread, in the metric's unit."""

    value: float
    low: float
    high: float
    repeats: int

    @property
    def reach(self) -> tuple[float, float]:
        """The interval that a verdict uses: wider than the samples where they are few."""
        pad = (self.high - self.low) / 2 if self.repeats < ENOUGH_REPEATS else 0.0
        return self.low - pad, self.high + pad

    @classmethod
    def once(cls, value: float) -> Measurement:
        """A count, or a number that was measured once."""
        return cls(value, value, value, 1)

    @classmethod
    def of_samples(cls, samples: Sequence[float]) -> Measurement:
        """The median of ``samples`` (at least one) and its interval."""
        low, high = median_interval(samples)
        return cls(statistics.median(samples), low, high, len(samples))

    @classmethod
    def of(cls, value: float | Stat | None) -> Measurement | None:
        """A number that was found once, or all samples of one; None stays None."""
        if isinstance(value, Stat):
            return cls.of_samples(value.samples)
        return None if value is None else cls.once(value)

    def scaled(self, factor: float) -> Measurement:
        """In another unit."""
        low, high = self.low * factor, self.high * factor
        return Measurement(self.value * factor, low, high, self.repeats)


@dataclass(frozen=True)
class Metric:
    """What is compared: its name, unit, which direction is better, and how it varies.

    ``log`` is for perplexities: their logarithms are compared, so that the verdict
    on a perplexity is the one on the loss that it was made from.
    """

    key: str
    label: str
    unit: str
    better: Direction
    kind: Kind
    group: str
    log: bool = False


@dataclass(frozen=True)
class Comparison:
    """Both sides of a metric and the verdict on them.

    Attributes:
        winner: The better side; None where no side is.
        reason: Why there is no winner, or what limits the verdict; may be empty.
        note: What the reader must know about the numbers ('estimated').
        comparable: False where the two numbers must not be compared at all.
        withheld: Why nothing is judged though they are comparable: the load by other programs.
        names: What the verdict calls the sides; not always two architectures.
    """

    metric: Metric
    ours: Measurement | None
    other: Measurement | None
    winner: Side | None
    reason: str = ""
    note: str = ""
    comparable: bool = True
    withheld: str = ""
    names: Mapping[Side, str] = field(default_factory=lambda: SIDE_NAMES)

    @property
    def label(self) -> str:
        """Of the metric; with a word where the numbers are estimated."""
        return self.metric.label + (f" ({self.note})" if self.note == "estimated" else "")

    @property
    def ratio(self) -> float | None:
        """Ours over the other; None where a side is missing or not positive."""
        a, b = self.ours, self.other
        if a is None or b is None or a.value <= 0 or b.value <= 0:
            return None
        return a.value / b.value

    @property
    def factor(self) -> str:
        """The ratio turned so that it is at least 1, such as ``2.41×``; empty without one."""
        return "" if self.ratio is None else times(self.ratio)

    @property
    def ratio_text(self) -> str:
        """Ratio and direction of ours against the other: ``2.41× lower (better)``."""
        if self.ratio is None or not self.comparable:
            return "—"
        if self.ratio == 1:
            return "equal"
        direction = "lower" if self.ratio < 1 else "higher"
        judged = "better" if direction == self.metric.better else "worse"
        unclear = "not judged" if self.withheld else "unclear"
        return f"{self.factor} {direction} ({judged if self.winner else unclear})"

    @property
    def verdict(self) -> str:
        """``Itera better by 2.41×``, ``Transformer better by 1.1×``, ``no clear difference`` …"""
        if self.ours is None or self.other is None:
            return "not measured"
        if not self.comparable:
            return f"not comparable: {self.reason}"
        if self.withheld:
            return f"not judged: {self.withheld}"
        tail = f" ({self.reason})" if self.reason else ""
        if self.winner:
            by = f" by {self.factor}" if self.factor else ""
            return f"{self.names[self.winner]} better{by}{tail}"
        equal = self.ours.value == self.other.value
        return "equal" if equal and self.metric.kind == "count" else f"no clear difference{tail}"


def times(ratio: float) -> str:
    """A ratio as a factor of at least 1: ``1.013×``, ``2.41×``, ``38×``; ``∞×`` for none."""
    if ratio <= 0:
        return "∞×"
    factor = max(ratio, 1 / ratio)
    digits = 3 if factor < 1.1 else 2 if factor < 10 else 1 if factor < 100 else 0
    return f"{factor:,.{digits}f}×"


def compare(
    metric: Metric,
    ours: Measurement | None,
    other: Measurement | None,
    *,
    note: str = "",
    refuse: str = "",
    loads: tuple[Load | None, Load | None] = (None, None),
    names: Mapping[Side, str] = SIDE_NAMES,
) -> Comparison:
    """Judge one metric.

    Args:
        metric: What is compared and which direction is better.
        ours: One side; None where it wasn't measured.
        other: The other side; None where it wasn't measured.
        note: Said beside the numbers.
        refuse: A reason why the two may not be compared; empty where they may.
        loads: Load by others beside ours and beside the other, where the metric depends on time.
        names: What the verdict calls the sides.
    """
    if ours is None or other is None:
        return Comparison(metric, ours, other, None, "", note, names=names)
    if refuse:
        return Comparison(metric, ours, other, None, refuse, note, comparable=False, names=names)
    if withheld := why_withheld(*loads, (names["ours"], names["other"])):
        return Comparison(metric, ours, other, None, "", note, withheld=withheld, names=names)
    winner, reason = _judge(metric, ours, other)
    return Comparison(metric, ours, other, winner, reason, note, names=names)


def _judge(metric: Metric, a: Measurement, b: Measurement) -> tuple[Side | None, str]:
    if a.value == b.value:
        return None, ""
    better: Side = "ours" if (a.value < b.value) == (metric.better == "lower") else "other"
    if metric.kind == "count":
        return better, ""
    x, y = (math.log(v.value) if metric.log and v.value > 0 else v.value for v in (a, b))
    small = abs(x - y) < LEAST_DIFFERENCE * min(abs(x), abs(y))
    repeats = min(a.repeats, b.repeats)
    if metric.kind == "run" and a.repeats == b.repeats == 1:
        return (None, "one run each, under 1 % apart") if small else (better, "one run each")
    if repeats < MIN_REPEATS:
        return None, f"too few repeats: {repeats}, a verdict needs {MIN_REPEATS}"
    (a_low, a_high), (b_low, b_high) = a.reach, b.reach
    if a_low <= b_high and b_low <= a_high:
        few = f" at {repeats} repeats" if repeats < ENOUGH_REPEATS else ""
        return None, f"the intervals overlap{few}"
    if metric.kind == "timing" and small:
        return None, "under 1 % apart"
    return better, f"{a.repeats} and {b.repeats} runs" if metric.kind == "run" else ""

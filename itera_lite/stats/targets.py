"""What the engine is meant to reach, and whether a measurement says that it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from itera_lite.stats.comparison import Measurement


@dataclass(frozen=True)
class Target:
    """A number to reach.

    Attributes:
        key: its name in the files.
        label: what is measured.
        sense: whether the number is the least or the most that will do.
        value: the number.
        unit: of it; ``×`` for a ratio.
    """

    key: str
    label: str
    sense: Literal["at least", "at most"]
    value: float
    unit: str = "×"


def ratio(a: Measurement | None, b: Measurement | None) -> Measurement | None:
    """a over b, with the interval that their intervals allow; None where one is missing."""
    if a is None or b is None or min(a.low, b.low) <= 0:
        return None
    return Measurement(a.value / b.value, a.low / b.high, a.high / b.low, min(a.repeats, b.repeats))


def judge(target: Target, found: Measurement | None) -> dict[str, Any]:
    """The target with what was found and the verdict: ``met``, ``missed`` or ``not measured``.

    The median decides. Where the target lies inside the interval of the median, the verdict
    says that it is not clear.
    """
    record: dict[str, Any] = {
        "key": target.key,
        "label": target.label,
        "sense": target.sense,
        "target": target.value,
        "unit": target.unit,
    }
    if found is None:
        return record | {"value": None, "verdict": "not measured"}
    sign = 1 if target.sense == "at least" else -1
    met = sign * found.value >= sign * target.value
    low, high = found.low, found.high
    clear = high < target.value or low > target.value or low == high
    verdict = ("met" if met else "missed") + ("" if clear else ", not clearly")
    return record | {"value": found.value, "low": low, "high": high, "verdict": verdict}


def lines(judged: Sequence[dict[str, Any]]) -> list[str]:
    """The judged targets as lines for a terminal."""
    width = max((len(one["label"]) for one in judged), default=0)
    out = []
    for one in judged:
        value = "-" if one["value"] is None else number(one["value"], one["unit"])
        target = f"{one['sense']} {number(one['target'], one['unit'])}"
        out.append(f"  {one['label']:<{width}}  {value:>10}  {target:<18}  {one['verdict']}")
    return out


def number(value: float, unit: str) -> str:
    """A value with its unit, with as many digits as are worth reading."""
    if unit == "%":
        return f"{100 * value:.0f} %"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}" + ("×" if unit == "×" else f" {unit}" if unit else "")

"""Numbers and Markdown as text. Nothing here knows about models."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from itera_lite.stats.comparison import Measurement
from itera_lite.stats.samples import Stat

MISSING = "—"  # a table cell without a number


def count(value: float | None) -> str:
    """``1,886,496``."""
    return MISSING if value is None else f"{round(value):,}"


def fixed(value: float | None, digits: int = 4) -> str:
    """``0.8123``."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """Significant digits, never fewer than the whole part: ``0.0123``, ``1.23``, ``12,345``."""
    if value is None or not math.isfinite(value):  # out of range in the unit that is shown
        return MISSING
    if value == 0:
        return "0"
    exponent = int(f"{abs(value):e}".split("e")[1])
    if exponent < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def scaled(value: float | None, unit: str, digits: int = 4) -> str:
    """With a decimal prefix: ``7.546 MB``, ``3.211 MFLOPs``."""
    if value is None:
        return MISSING
    for step, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= step:
            return f"{significant(value / step, digits)} {prefix}{unit}"
    return f"{significant(value, digits)} {unit}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share 0..1 as ``41.2 %``."""
    return MISSING if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """``45.0 s``, ``10.0 min`` or ``3.2 h``."""
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def quantity(value: float | None, unit: str) -> str:
    """A number in the way its unit is usually written, unit included."""
    if value is None:
        return MISSING
    if unit == "bytes":
        return scaled(value, "B")
    if unit == "FLOPs":
        return scaled(value, "FLOPs")
    if unit == "J":
        for step, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (0.0, "n")):
            if abs(value) >= step:
                scale = step or 1e-9
                return f"{significant(value / scale)} {prefix}J"
    if unit == "parameters":
        return count(value)
    if unit in ("bits/byte", "nats/token"):
        return f"{fixed(value)} {unit}"
    return f"{significant(value, 4)} {unit}".strip()


def measured(value: Measurement | None, unit: str, *, unit_shown: bool = True) -> str:
    """Median, interval and repeats: ``8,123 tokens/s [7,990 – 8,240], n = 7``."""
    if value is None:
        return MISSING
    text, low, high = (quantity(x, unit) for x in (value.value, value.low, value.high))
    suffix = text.rpartition(" ")[2] if " " in text else ""
    if all(bound.endswith(f" {suffix}") for bound in (low, high)):  # else the prefixes differ
        low, high = (bound.removesuffix(suffix).strip() for bound in (low, high))
    if not unit_shown:
        text = text.removesuffix(unit).strip()
    return text if value.repeats <= 1 else f"{text} [{low} – {high}], n = {value.repeats}"


def stat(value: Stat | None, unit: str) -> str:
    """A repeated measurement of a record, as `measured` writes it."""
    return measured(Measurement.of(value), unit)


def rate(value: Stat | None) -> str:
    """Tokens a second without the unit, where a table's title says it."""
    return measured(Measurement.of(value), "tokens/s", unit_shown=False)


def escape(text: Any) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", line)


def code(text: Any) -> str:
    """An inline code span, whatever backquotes the text holds. Not for a `|` in a table."""
    line = printable(" ".join(str(text).split()))
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    marks = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{marks}{pad}{line}{pad}{marks}"


def fence(text: str, language: str = "text") -> str:
    """A fenced block, longer than any fence inside the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{printable(text).rstrip()}\n{marks}"


def printable(text: str) -> str:
    """Control characters and surrogates (not line ends and tabs) as U+FFFD."""
    return re.sub(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", "\ufffd", text)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table.

    Args:
        headers: Column titles.
        rows: Cells, already escaped where they need it.
        align: ``l`` or ``r`` a column; the first ``l`` and the others ``r`` by default.
    """
    align = align or "l" + "r" * (len(headers) - 1)
    rule = ["---:" if a == "r" else ":---" for a in align]
    lines = [list(headers), rule, *[list(row) for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def paragraphs(*parts: str) -> str:
    """The parts that aren't empty, parted by blank lines."""
    return "\n\n".join(part.strip("\n") for part in parts if part)

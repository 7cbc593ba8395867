"""Parses the numbers that a user gives, such as ``3M``, ``1MB`` and ``1%``, and checks their range.

Every function raises a `UsageError` that names the option, the value given and the values expected,
and nothing else, whatever the value is.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from itera_lite.errors import UsageError

MOST_SEED = 2**63 - 1  # the largest seed of PyTorch, NumPy and the engine
MOST_THREADS = 4096
MOST_MINUTES = 10 * 366 * 24 * 60.0  # ten years
MOST = 2**63 - 1  # of a count or a size
MOST_EPOCHS = 1e6
COUNTS = {"K": 10**3, "M": 10**6, "B": 10**9}
SIZES = {"B": 1}
SIZES |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
SIZES |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)}


def number_of(option: str, value: str | float) -> float:
    """A count: ``3M`` is 3,000,000; also K and B, and plain numbers.

    Args:
        option: name of the option, as ``max_bytes`` or ``max-bytes``; the message shows it as
            ``--max-bytes``. The same in all functions of this module.
        value: as the user gave it.
    """
    number = _scaled(_text(value), COUNTS)
    if not 1 <= number <= MOST:
        raise _wrong(option, value, "a number such as 3000000 or 3M")
    return number


def bytes_of(option: str, value: str | float) -> int:
    """A size: ``1MB`` is 1,000,000 and ``1MiB`` is 1,048,576; also KB, GB, and plain numbers of
    bytes."""
    number = _scaled(_text(value), SIZES)
    if not 1 <= number <= MOST:
        raise _wrong(option, value, "a size such as 1MB, 900KB, 1MiB or 1000000 (bytes)")
    return int(number)


def share_of(option: str, value: str) -> float:
    """A percentage, 0 or more: ``1%`` is 0.01."""
    text = _text(value).strip()
    share = _scaled(text.removesuffix("%"), {}) / 100 if text.endswith("%") else math.nan
    if not 0 <= share < math.inf:
        raise _wrong(option, value, "a percentage such as 1%")
    return share


def whole_number(option: str, value: Any, *, least: int = 1, most: int = MOST) -> int:
    """A whole number of any integer type, NumPy's too, in a range that includes both ends."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        raise _wrong(option, value, _whole_range(least, most))
    return number


def finite_number(
    option: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> float:
    """A finite number in a range: at least ``least``, more than ``above``, at most ``most``."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most and number > above):
        parts = [f"more than {above:,g}"] if above > -math.inf else []
        parts += [f"at least {least:,g}"] if least > -math.inf else []
        parts += [f"at most {most:,.10g}"] if most < math.inf else []
        raise _wrong(option, value, "a number, " + " and ".join(parts) if parts else "a number")
    return number


def seed_of(value: Any, option: str = "seed") -> int:
    """A seed of random numbers: 0 to 2^63-1, in every verb."""
    try:
        return whole_number(option, value, least=0, most=MOST_SEED)
    except UsageError:
        raise _wrong(option, value, "a whole number from 0 to 2^63-1") from None


def minutes_of(value: Any, option: str = "minutes", *, or_none: bool = False) -> float:
    """A time in minutes, more than 0; with ``or_none`` also 0."""
    if or_none:
        return finite_number(option, value, least=0, most=MOST_MINUTES)
    return finite_number(option, value, above=0, most=MOST_MINUTES)


def threads_of(value: Any, option: str = "threads") -> int:
    """A number of threads, 1 or more."""
    return whole_number(option, value, most=MOST_THREADS)


def workers_of(value: Any) -> int:
    """A number of workers, 1 or more."""
    return threads_of(value, "workers")


# The check of an option, by its name; the same in every verb
CHECKS: dict[str, Callable[[Any], object]] = {
    "seed": seed_of,
    "threads": threads_of,
    "workers": workers_of,
    "minutes": minutes_of,
    "tokens": partial(number_of, "tokens"),
    "epochs": partial(finite_number, "epochs", above=0, most=MOST_EPOCHS),
    "evaluations": partial(whole_number, "evaluations"),
    "patience": partial(whole_number, "patience", least=0),
    "repeats": partial(whole_number, "repeats"),
    "seeds": partial(whole_number, "seeds"),
    "watts": partial(finite_number, "watts", above=0),
    "temperature": partial(finite_number, "temperature", above=0),
    "mix": partial(finite_number, "mix", above=0, most=1),  # 0 would leave out the teacher
}


def check_numbers(**options: Any) -> None:
    """Check options by their names (`CHECKS`), before anything is loaded or written.

    Args:
        options: values as the user gave them; None: not given.

    Raises:
        UsageError: one is out of its range; says which, and what is expected.
    """
    for name, value in options.items():
        if value is not None:
            CHECKS[name](value)


def _scaled(text: str, units: dict[str, int]) -> float:
    """The number times its unit, or NaN for a text that isn't one."""
    text = text.strip().upper()
    unit = max((u for u in units if text.endswith(u)), key=len, default="")
    try:
        return float(text[: len(text) - len(unit)]) * units.get(unit, 1)
    except ValueError:
        return math.nan


def _whole_range(least: int, most: int) -> str:
    if most >= MOST:
        return f"a whole number, {least:,} or more"
    return f"a whole number from {least:,} to {most:,}"


def shown(value: Any) -> str:
    """The value for a message, cut where it is long."""
    text = _text(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)"


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to print integers of some thousand digits
        return "an enormous number"


def _wrong(option: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"--{option.replace('_', '-')} {shown(value)}: expected {expected}")

"""Checks of what callers give the engine: any integer type is taken, and a wrong one is named."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from itera_lite.errors import UsageError
from itera_lite.quantities import MOST_SEED, shown


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number of any integer type, NumPy's too, in its range."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name}={_shown(value)}: expected a whole number") from None
    if number < least or (most is not None and number > most):
        expected = f"{least:,} or more"
        if most is not None:
            expected = f"{least:,} to " + ("2^63-1" if most == MOST_SEED else f"{most:,}")
        raise UsageError(f"{name}={_shown(value)}: expected {expected}")
    return number


def int32(name: str, value: Any) -> int:
    """The nearest 32-bit number: the engine itself refuses those out of an option's range."""
    return max(-(1 << 31), min(whole(name, value, -(1 << 70)), (1 << 31) - 1))


def real(name: str, value: Any) -> float:
    """A number of any type, but no text that holds one."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}={_shown(value)}: expected a number") from None


def id_of(token: Any, vocab_size: int, what: str = "token") -> int:
    try:
        if 0 <= (number := operator.index(token)) < vocab_size:
            return number
    except TypeError:
        pass
    raise UsageError(f"{what} {_shown(token)}: expected an id from 0 to {vocab_size - 1:,}")


def ids_of(tokens: Any, vocab_size: int) -> list[int]:
    """Token ids of any integer type, each of the vocabulary."""
    if isinstance(tokens, str | bytes):
        raise UsageError("the ids are a text: expected token ids; `tokenize` makes them")
    return [id_of(token, vocab_size) for token in items_of("ids", tokens)]


def items_of(name: str, values: Any) -> list[Any]:
    if isinstance(values, Iterable) and not isinstance(values, Mapping):
        return list(values)
    raise UsageError(f"{name} is {kind_of(values)}: expected a list")


def stops_of(stop: Any) -> list[Any]:
    if stop is None:
        return []
    return [stop] if isinstance(stop, str | bytes) else items_of("stop", stop)


def bytes_of(text: Any, what: str = "a text") -> bytes:
    """The text in UTF-8. Bytes that Python decoded with surrogateescape (arguments of a program)
    are restored; any other half of a surrogate pair becomes U+FFFD."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise UsageError(f"{what} is {kind_of(text)}: expected a str or bytes")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return joined.encode("utf-8")


def kind_of(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _shown(value: Any) -> str:
    return shown(repr(value) if isinstance(value, str | bytes) else value)

"""Documents, a line each, from files of any size: plain text or JSON lines, compressed or not."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from itera_lite.data.unpack import unpacked
from itera_lite.errors import DataError, UsageError

KINDS = {".txt": "text", ".jsonl": "jsonl"}


@dataclass(frozen=True)
class Line:
    """One document.

    Attributes:
        number: of its line, from 1.
        text: what is scored.
        fields: all that stands in the line; of plain text, the text alone.
    """

    number: int
    text: str
    fields: dict[str, Any]


class LineReader:
    """Reads documents one by one; blank lines are left out.

    Args:
        path: ``.txt`` (a document a line) or ``.jsonl`` (an object a line), also with ``.gz`` or
            ``.zst``; ``-`` is standard input, JSON lines if its first line is a JSON object.
        text_field: field of an object that holds the text.
    """

    def __init__(self, path: Path, text_field: str = "text") -> None:
        self.path, self.text_field = path, text_field
        self.is_stdin = str(path) == "-"
        self.name = "standard input" if self.is_stdin else str(path)
        self.repaired = 0  # lines in which something wasn't UTF-8
        self._kind = None if self.is_stdin else _kind(path)
        self._raw: BinaryIO | None = None
        if self.is_stdin:
            self.size = None
            return
        try:
            self.size = path.stat().st_size
            path.open("rb").close()
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror or error})") from error

    def position(self) -> int:
        """Bytes of the file (as it is stored) that were read; 0 on standard input."""
        if self._raw is None:
            return 0
        return self.size or 0 if self._raw.closed else self._raw.tell()

    def __iter__(self) -> Iterator[Line]:
        """Yields the documents.

        Raises:
            DataError: the file can't be read, or a line isn't what it should be.
            MissingExtra: Zstandard support isn't installed.
        """
        with self._open() as file:
            for number, raw in enumerate(file, 1):
                text = self._decode(raw, number)
                if text.strip():
                    yield self._line(text, number)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.is_stdin:
            yield sys.stdin.buffer
            return
        with self.path.open("rb") as self._raw, unpacked(self._raw, self.path) as file:
            yield file

    def _decode(self, raw: bytes, number: int) -> str:
        if b"\0" in raw:
            raise DataError(
                f"{self.name}: line {number} holds NUL bytes: a binary file, or text in UTF-16. "
                "Expected UTF-8; convert it first"
            )
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.repaired += 1
            return raw.decode("utf-8", "replace")

    def _line(self, text: str, number: int) -> Line:
        if self._kind is None:
            self._kind = "jsonl" if _is_object(text) else "text"
        if self._kind == "text":
            return Line(number, text, {self.text_field: text})
        where = f"{self.name}: line {number}"
        try:
            fields = json.loads(text, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} isn't JSON ({error}); expected an object a line") from error
        if not isinstance(fields, dict):
            raise DataError(f"{where} is JSON, but no object: expected {{...}}")
        if self.text_field not in fields:
            raise DataError(
                f"{where} has no field '{self.text_field}'. Its fields: "
                f"{', '.join(fields) or 'none'}. Name the one with the text with --text-field"
            )
        document = fields[self.text_field]
        if not isinstance(document, str):
            raise DataError(
                f"{where}: the field '{self.text_field}' is {type(document).__name__}, "
                "expected a string"
            )
        return Line(number, document, fields)


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    kind = KINDS.get(Path(name).suffix)
    if kind is None:
        raise UsageError(
            f"'{path}': expected .txt (a document a line) or .jsonl (an object a line), also with "
            ".gz or .zst, or - for standard input"
        )
    return kind


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _finite(number: str) -> float:
    """The float, unless it is one that JSON couldn't be written with again."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is too large a number, or none")
    return value
